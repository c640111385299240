"""`layerdial listen` as a user meets it: lines while the sound goes on, Ctrl-C, and what it says of microphones."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from layerdial.audio.live import Block
from layerdial.audio.microphone import Microphone, list_microphones
from layerdial.errors import UserError
from layerdial.runtime import Recognizer
from tiny import command
from tiny_microphone import RATE as DEVICE_RATE
from tiny_microphone import microphone, needs_portaudio
from tiny_speech import RATE, hush, speech, with_pauses

ENGLISH = Path(__file__).parents[2] / "models" / "english"
TEXTS = ("the dog and the cat are in the garden", "and nobody knew where it had come from")
FULL = "from layerdial.cli.app import main; main()"
DEVICE = "from layerdial.cli.device import main; main()"
each_command_line = pytest.mark.parametrize(  # the same code below; what plays in real time is waited for
    "code", [pytest.param(FULL, marks=pytest.mark.slow, id="full"), pytest.param(DEVICE, id="device")]
)


def start(*words: object, code: str = FULL, **more: Any) -> subprocess.Popen[str]:
    program = [sys.executable, "-c", code, "listen", ENGLISH, *words]
    return subprocess.Popen([*map(str, program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "talk.wav", with_pauses(*TEXTS), RATE, subtype="FLOAT")
    return tmp_path / "talk.wav"


# ------------------------------------------------------------------------------------------------------- a played file


@pytest.mark.slow  # what plays in real time is waited for
@pytest.mark.parametrize("code", [FULL, DEVICE], ids=["full", "device"])
def test_a_played_file_gives_the_text_of_each_stretch(talk: Path, code: str) -> None:
    out, err = (process := start("--from", talk, "--json", "--depth", 3, code=code)).communicate()
    assert process.returncode == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    samples, english = soundfile.read(talk, dtype="float32")[0], Recognizer(ENGLISH)
    cut = [samples[round(row["start"] * RATE) : round(row["end"] * RATE)] for row in rows]
    assert [row["text"] for row in rows] == [english.transcribe(part, depth=3).text for part in cut]
    assert len(rows) == 2 and all(row["text"] and row["depth"] == 3 and row["delay_seconds"] > 0 for row in rows)
    assert err.splitlines()[1:] == [f"layerdial: listened for {len(samples) / RATE:.1f} s"]


@pytest.mark.medium
@pytest.mark.parametrize("end", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_lines_come_while_the_file_plays_and_a_signal_ends_it(talk: Path, end: signal.Signals, tmp_path: Path) -> None:
    soundfile.write(talk, np.concatenate([with_pauses(TEXTS[0]), hush(120)]), RATE)
    (tmp_path / "out.txt").write_text("before\n")
    process = start("--from", talk, "--out", tmp_path / "out.txt")
    assert process.stdout is not None
    line = process.stdout.readline()
    process.send_signal(end)
    out, err = process.communicate()
    assert process.returncode == 0 and out == "", err
    depth, text = line[:8], line[18:].strip()
    assert depth == "depth  4" and line[16] == "s" and float(line[8:15]) > 0 and text
    assert (tmp_path / "out.txt").read_text() == f"before\n{text}\n"
    assert float(err.splitlines()[-1].split()[-2]) < 60  # of two minutes


@pytest.mark.medium
@each_command_line
def test_of_silence_nothing_is_printed(talk: Path, code: str) -> None:
    soundfile.write(talk, hush(2), RATE)
    out, err = (process := start("--from", talk, code=code)).communicate()
    assert (process.returncode, out) == (0, "")
    assert err == f"layerdial: listening to {talk}; Ctrl-C ends\nlayerdial: listened for 2.0 s\n"


@pytest.mark.slow
def test_a_reader_that_is_gone_ends_it(talk: Path) -> None:
    process = start("--from", talk)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait() == 0 and "Traceback" not in err
    process.stderr.close()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--from", "none.wav"], "none.wav does not exist; give an audio file"),
        (["--from", "talk.txt"], "talk.txt is not audio that can be read"),
        (["--from", "zero.wav"], "zero.wav is not audio that can be read (its header says 0 Hz)"),
        (["--from", "empty.wav"], "empty.wav is empty (0 bytes)"),
        (["--from", "."], ". is not a file; give an audio file"),
        (["--from", "-"], "--from plays a file, not a pipe; for a pipe: layerdial transcribe -"),
        (["--from", "talk.wav", "--microphone", "1"], "give --from or --microphone, not both"),
        (["--from", "talk.wav", "--depth", "9"], "depth 9 does not exist in an encoder of 4 blocks; choose 3 to 4"),
        (["--from", "talk.wav", "--pause", "0"], "--pause is 0; give 0.1 to 5 seconds"),
        (["--from", "talk.wav", "--out", "no/where"], "cannot write no/where: No such file or directory"),
        (["--from", "talk.wav", "--out", "talk.wav"], "--out talk.wav is the file that is played; give another"),
        (["--from", "talk.wav", "--hotwords", "none.txt"], "none.txt"),
        (["talk.wav"], "talk.wav is a recording, not a model; to play it: layerdial listen --from talk.wav"),
        (["empty", "--from", "talk.wav"], "empty is not a model folder"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(words: list[str], problem: str, talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(talk.parent)
    Path("talk.txt").write_text("hello")
    Path("empty.wav").touch()
    Path("empty").mkdir()
    header = bytearray(talk.read_bytes())
    header[24:28] = bytes(4)
    Path("zero.wav").write_bytes(header)
    ended = command("listen", *([] if words[0] in ("talk.wav", "empty") else [ENGLISH]), *words)
    assert ended.code == 2 and problem in ended.err, ended.err
    assert ended.err.count("\n") == 1 and ended.err.startswith("layerdial: ") and ended.out == ""


# ---------------------------------------------------------------------------------------------------------- microphones


@pytest.mark.slow  # a device of PortAudio, in real time
def test_a_microphone_is_recognised_until_ctrl_c(tmp_path: Path) -> None:
    needs_portaudio()
    spoken = np.concatenate([hush(1), speech("he was a good man and he loved his mother", "en+f2"), hush(1)])
    samples = soxr.resample(spoken, RATE, DEVICE_RATE)
    with microphone(tmp_path, samples) as environment:
        process = start("--json", env=environment)
        assert process.stdout is not None
        rows = [json.loads(process.stdout.readline()) for _ in range(2)]  # the first may have begun before the device
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 0, err
    assert "layerdial: listening to default; Ctrl-C ends" in err and "lost" not in err
    assert "loved his mother" in rows[1]["text"] and rows[0]["end"] <= rows[1]["start"]


@pytest.mark.medium
def test_microphones_are_listed_and_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    needs_portaudio()
    with microphone(tmp_path, hush(1)) as environment:
        listed = start("--list-microphones", env=environment).communicate()[0].splitlines()
        ended = start("--microphone", "far", env=environment).communicate()
        chosen = start("--microphone", "spok", env=environment)
        assert chosen.stderr is not None
        assert "layerdial: listening to spoken; Ctrl-C ends\n" in iter(chosen.stderr.readline, "")
        chosen.send_signal(signal.SIGINT)
        chosen.communicate()
    assert [line[:2] for line in listed if "default" in line] == ["* "] and any(
        "spoken  (ALSA" in line for line in listed
    )
    assert ended[1].startswith("layerdial: there is no microphone 'far'; give the number of one of: 0 ")
    assert ended[1].count("\n") == 1 and chosen.returncode == 0


class PortAudioError(Exception):
    pass


PLUGGED = {"index": 3, "name": "mic", "hostapi": 0, "max_input_channels": 2, "default_samplerate": 16000.0}


def library(**changes: Any) -> SimpleNamespace:
    """A stand-in for sounddevice, with one microphone."""

    def query_devices(device: object = None, kind: str | None = None) -> Any:
        return [PLUGGED] if kind is None else PLUGGED

    stand_in = {"query_devices": query_devices, "PortAudioError": PortAudioError}
    return SimpleNamespace(**({**stand_in, "check_input_settings": lambda **_: None} | changes))


def test_a_machine_without_a_microphone_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(device: object = None, kind: str | None = None) -> Any:
        if kind is None:
            return [PLUGGED | {"max_input_channels": 0}]  # a loudspeaker
        raise PortAudioError("Error querying device -1")

    monkeypatch.setitem(sys.modules, "sounddevice", library(query_devices=none))
    for words in ([], ["--microphone", "mic"], ["--list-microphones"]):
        ended = command("listen", *words)
        said = "there is no microphone on this machine; plug one in, or play a file with --from FILE"
        assert (ended.code, ended.err) == (2, f"layerdial: {said}\n")


def test_a_microphone_that_is_taken_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(**_: object) -> None:
        raise PortAudioError("Device unavailable")

    monkeypatch.setitem(sys.modules, "sounddevice", library(check_input_settings=taken))
    with pytest.raises(UserError, match=r"^the microphone mic cannot be used \(Device unavailable\): has another"):
        Microphone()
    monkeypatch.setitem(sys.modules, "sounddevice", library(InputStream=taken))
    with pytest.raises(UserError, match="the microphone mic cannot be used"):
        list(Microphone().blocks())


def test_a_microphone_without_a_rate_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PLUGGED, "default_samplerate", 0.0)
    monkeypatch.setitem(sys.modules, "sounddevice", library())
    with pytest.raises(UserError, match="the microphone mic is at 0 Hz; speech is at 4000 Hz or more"):
        Microphone()


def test_a_system_without_portaudio_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")  # what the package does
    monkeypatch.syspath_prepend(str(tmp_path))
    for action in (Microphone, list_microphones):
        monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
        with pytest.raises(UserError, match=r"^layerdial listen needs PortAudio \(PortAudio library not found\): apt"):
            action()


class Stream:
    """A stream that gives blocks of sound at once, and ends."""

    def __init__(self, blocks: list[Any], callback: Any, finished_callback: Any, **_: object) -> None:
        self._blocks, self._take, self._finished = blocks, callback, finished_callback

    def __enter__(self) -> Stream:
        for samples, overflow in self._blocks:
            self._take(samples, len(samples), None, SimpleNamespace(input_overflow=overflow))
        self._finished()
        return self

    def __exit__(self, *_: object) -> None: ...


def blocks_of(monkeypatch: pytest.MonkeyPatch, *given: tuple[Any, bool]) -> list[Block]:
    """The blocks of a microphone that gives samples (S, C), some behind a gap, until its cable is pulled."""
    monkeypatch.setitem(sys.modules, "sounddevice", library(InputStream=partial(Stream, list(given))))
    found: list[Block] = []
    with pytest.raises(UserError, match="the microphone mic gives no more sound; is it still plugged in"):
        for block in Microphone().blocks():
            found.append(block)
    return found


def test_what_nobody_takes_in_time_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    found = blocks_of(monkeypatch, *[(np.ones((800, 1), np.float32), False)] * 650)
    assert sum(len(block.samples) for block in found) == 600 * 800
    assert [(number, block.lost) for number, block in enumerate(found) if block.lost] == [(600, 50 * 0.05)]


def test_channels_are_mixed_and_what_the_sound_card_drops_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = np.tile(np.array([[0.5, 0.25]], np.float32), (800, 1))
    first, second = blocks_of(monkeypatch, (sides, False), (sides, True))
    assert set(first.samples.tolist()) == {0.375} and first.note == ""
    assert second.note == "the sound card has dropped some sound"


@pytest.mark.parametrize(("sound", "notes"), [(0.0, 1), (0.001, 0)])
def test_a_muted_microphone_is_said_once(monkeypatch: pytest.MonkeyPatch, sound: float, notes: int) -> None:
    blocks = [(np.zeros((800, 1), np.float32), False)] * 300
    blocks[50] = (np.full((800, 1), sound, np.float32), False)
    said = [block.note for block in blocks_of(monkeypatch, *blocks) if block.note]
    assert said == ["mic gives silence alone; is it muted, or may this program not listen?"] * notes
