"""`layerdial try`: one clip at every depth, a table, and a picture where it can be drawn."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from layerdial.audio import microphone
from layerdial.cli.app import main
from layerdial.demo import trial
from layerdial.errors import UserError
from tiny import command, in_child, speak
from tiny_registry import publish
from tiny_server import Server

pytest_plugins = ["tiny_export", "tiny_registry"]

TEXT = "low high middle"


@pytest.fixture(autouse=True)
def english(published: Server, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model that is tried without --model, few turns, and a working folder."""
    publish(exported, published)
    monkeypatch.setattr(trial, "_TURNS", 1)
    monkeypatch.chdir(tmp_path)
    soundfile.write("clip.wav", speak(TEXT, 77), 16000)


def test_a_clip_is_transcribed_at_every_depth_and_drawn() -> None:
    ended = command("try", "--audio", "clip.wav")
    assert ended.code == 0, ended.err
    rows = [line.split(maxsplit=5) for line in ended.out.splitlines() if " ms " in line]
    assert [row[0] for row in rows] == ["1", "2", "3"] and [row[5] for row in rows][1:] == [TEXT, TEXT]
    assert rows[2][3] == "1.00" and all(set(row[4]) == {"#"} for row in rows)
    assert Path("runs/try/depths.png").read_bytes().startswith(b"\x89PNG")
    assert "picture: runs/try/depths.png" in ended.out
    assert ended.out.endswith("next:    layerdial transcribe clip.wav --depth 2\n")


def test_without_audio_a_synthetic_voice_speaks_and_that_is_said() -> None:
    ended = command("try", "--out", "here")
    assert ended.code == 0, ended.err
    assert "a synthetic voice (espeak-ng), not a person, reads" in ended.out
    assert 2 < soundfile.info("here/spoken.wav").duration < 10


@pytest.mark.parametrize(
    ("missing", "said", "code"),
    [
        ("matplotlib", "picture: none, matplotlib is not installed: pip install '.[try]'", 0),
        (
            "espeakng_loader",
            "a synthetic voice speaks, which needs espeakng_loader, which is not installed: pip install '.[try]'",
            2,
        ),
        ("sounddevice", "--record needs sounddevice, which is not installed: pip install '.[record]'", 2),
    ],
)
def test_what_is_missing_is_named(missing: str, said: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)  # importing it fails
    words = {"matplotlib": ["--audio", "clip.wav"], "sounddevice": ["--record", "2"]}.get(missing, [])
    monkeypatch.setattr(sys, "argv", ["layerdial", "try", *words])
    ended = in_child(main)  # `command` would import matplotlib
    assert ended.code == code and said in ended.out + ended.err
    assert ended.err.count("layerdial: ") == (code != 0)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--audio", "missing.wav"], "missing.wav does not exist"),
        (["--audio", "clip.wav", "--record", "3"], "give --audio or --record, not both"),
        (["--record", "0"], "--record is 0; give 1 to 30 seconds"),
        (["--model", "nothing"], "there is no model 'nothing'"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(words: list[str], problem: str) -> None:
    ended = command("try", *words)
    assert ended.code == 2 and problem in ended.err.splitlines()[-1]
    assert ended.err.count("layerdial: ") == 1


def test_of_long_audio_the_first_half_minute_is_taken(tmp_path: Path) -> None:
    soundfile.write("long.flac", np.tile(speak(TEXT, 77, rate=8000), 30), 8000)
    samples = trial._first_samples(Path("long.flac"))
    assert len(samples) == 30 * 16000


# --------------------------------------------------------------------------------------------------- microphone


class PortAudioError(Exception):
    pass


def device(**changes: Any) -> SimpleNamespace:
    """A stand-in for sounddevice with a microphone of 48 kHz."""

    def rec(frames: int, samplerate: int, channels: int, dtype: str, blocking: bool) -> Any:
        assert (channels, dtype, blocking) == (1, "float32", True)
        return np.full((frames, 1), 0.25, np.float32)

    def query_devices(kind: str) -> dict[str, float]:
        return {"default_samplerate": 48000.0} if kind == "input" else {}

    return SimpleNamespace(**({"rec": rec, "query_devices": query_devices, "PortAudioError": PortAudioError} | changes))


def test_a_recording_has_the_rate_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", device())
    said: list[str] = []
    microphone.record(1.5, Path("said.wav"), said.append)
    info = soundfile.info("said.wav")
    assert (info.samplerate, info.frames, info.channels) == (48000, 72000, 1)
    assert said == ["speak now, for 1.5 s"]


def test_a_system_without_portaudio_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("sounddevice.py").write_text("raise OSError('PortAudio library not found')")  # what the package does
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    with pytest.raises(UserError, match=r"^--record needs PortAudio \(PortAudio library not found\): apt install"):
        microphone.record(2.0, Path("said.wav"), print)


def test_a_machine_without_a_microphone_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(kind: str) -> Any:
        raise PortAudioError("Error querying device -1")

    monkeypatch.setitem(sys.modules, "sounddevice", device(query_devices=none))
    ended = command("try", "--record", "2")
    assert ended.code == 2 and "there is no microphone that can be used (Error querying device -1); or" in ended.err
