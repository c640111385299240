"""Formats, folders and channels of `layerdial transcribe`: what is printed, what is written, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from layerdial.audio.channels import Channel
from layerdial.audio.files import AudioProblem, read_audio
from layerdial.errors import UserError
from layerdial.request import Request
from layerdial.runtime.commands import transcribe_files
from layerdial.runtime.outputs import Output, plan
from layerdial.subset import BlockSubset
from layerdial.transcript import Segment, Transcript
from layerdial.utils.files import write_text
from tiny import command, speak

pytest_plugins = ["tiny_export"]

FULL = BlockSubset.full(2)


@dataclass
class Sides:
    """A recogniser of calls: the left side speaks first, and the sides in turns; it notes what it is asked.

    It knows times of segments alone.
    """

    asked: list[Request] = field(default_factory=list)

    def subset(self, depth: int | None) -> BlockSubset:
        return FULL

    def answer(self, audio: Any, request: Request) -> Transcript:
        if request.words:
            raise UserError("words: this model has no times of words")
        self.asked.append(request)
        read_audio(audio)
        first = 0.0 if isinstance(audio, Channel) and audio.number == 1 else 2.0
        said = tuple(Segment(first + 4 * i, first + 4 * i + 2, f"from {first + 4 * i:g} s") for i in range(2))
        return Transcript(
            " ".join(one.text for one in said), FULL, 10.0, 0.1, segments=said if request.timestamps else ()
        )


def transcribe(audio: list[Path], output: Output, request: Request | None = None) -> tuple[int, list[Request]]:
    recognizer: Any = Sides()
    return transcribe_files(recognizer, plan(audio, output), request or Request(), output), recognizer.asked


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """A folder of three recordings, one of them in a folder of its own, and of things that are none."""
    for name in ("a.wav", "b.flac", "monday/a.wav", ".hidden.wav", ".trash/c.wav"):
        (tmp_path / "calls" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "calls" / name, np.zeros((1600, 2)) + 0.1, 16000)
    (tmp_path / "calls" / "notes.txt").touch()
    return tmp_path / "calls"


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------------------------ formats


def test_subtitles_ask_for_times_by_themselves(calls: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for format, begin in (("srt", "1\n00:00:02,000 --> "), ("vtt", "WEBVTT\n\n00:00:02.000 --> "), ("tsv", "start\t")):
        code, asked = transcribe([calls / "a.wav"], Output(format))
        assert capsys.readouterr().out.startswith(begin) and code == 0 and asked[0].timestamps
    _, asked = transcribe([calls / "a.wav"], Output("text"))
    assert asked[0].timestamps is None and capsys.readouterr().out == "from 2 s from 6 s\n"


def test_each_recording_of_a_folder_has_its_file(calls: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = calls.parent / "out"
    code, _ = transcribe([calls], Output("srt", out))
    assert code == 0 and names(out) == ["a.srt", "b.srt", "monday/a.srt"]
    assert capsys.readouterr().out == f"written: {out} (3 written)\n"
    assert (out / "monday" / "a.srt").read_text() == (
        "1\n00:00:02,000 --> 00:00:04,000\nfrom 2 s\n\n2\n00:00:06,000 --> 00:00:08,000\nfrom 6 s\n"
    )


def test_what_is_there_is_skipped_and_what_failed_is_done_again(
    calls: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Output("json", calls.parent / "out", skip_existing=True)
    content = (calls / "b.flac").read_bytes()
    (calls / "b.flac").write_bytes(content[:100])
    code, asked = transcribe([calls], output)
    assert code == 2 and len(asked) == 3 and names(calls.parent / "out") == ["a.json", "monday/a.json"]
    assert "b.flac" in capsys.readouterr().err
    (calls / "b.flac").write_bytes(content)
    code, asked = transcribe([calls], output)
    assert code == 0 and len(asked) == 1
    assert "2 there already, 1 written" in capsys.readouterr().out
    assert json.loads((calls.parent / "out" / "b.json").read_text())["text"] == "from 2 s from 6 s"


def test_a_transcript_appears_whole_or_not_at_all(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that is killed while it writes leaves nothing that `--skip-existing` could take for a transcript."""
    killed = KeyboardInterrupt()

    def die(self: Path, target: Path) -> None:
        raise killed

    monkeypatch.setattr("layerdial.utils.files.os.replace", die)
    with pytest.raises(KeyboardInterrupt):
        transcribe([calls], Output("text", calls.parent / "out"))
    assert names(calls.parent / "out") == []


def test_two_recordings_never_share_a_file(calls: Path) -> None:
    output = Output("srt", calls.parent / "out")
    soundfile.write(calls / "a.flac", np.zeros(1600), 16000)
    for audio in ([calls], [calls / "a.wav", calls / "monday" / "a.wav"], [calls / "a.wav", calls / "a.flac"]):
        with pytest.raises(UserError, match=r"calls/\S*a\.\w+ and \S+ would both be written to \S+out/a.srt; take two"):
            plan(audio, output)
    assert not (calls.parent / "out").exists()
    assert len(plan([calls / "a.wav", calls / "a.wav"], output)) == 1


def test_a_transcript_never_replaces_its_recording(calls: Path) -> None:
    soundfile.write(calls / "odd.txt", np.zeros(1600), 16000, format="WAV")
    [job] = plan([calls / "odd.txt"], Output("text", calls))
    assert job.target == calls / "odd.txt.txt"
    assert [job.target for job in plan([Path("-")], Output("vtt", calls))] == [calls / "stdin.vtt"]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda calls: Output("doc"), "--format is 'doc'; choose text, json, srt, vtt, tsv"),
        (
            lambda calls: Output(skip_existing=True),
            "--skip-existing looks for the files of --output-dir; give a folder",
        ),
        (lambda calls: Output(channel="middle"), "--channel is 'middle'; give left, right, each, or a number from 1"),
        (lambda calls: Output(channel="0"), "--channel is '0'"),
        (lambda calls: plan([calls], Output("srt")), "3 recordings do not make one srt file; give --output-dir DIR"),
        (lambda calls: plan([calls / ".trash"], Output()), None),
        (lambda calls: plan([calls / "notes.txt"], Output("srt", calls / "notes.txt")), "cannot write .*notes.txt"),
        (lambda calls: transcribe([calls / "a.wav"], Output("srt"), Request(deadline_ms=9)), "exclude deadline_ms"),
    ],
)
def test_what_cannot_be_meant_is_one_line_before_any_work(
    calls: Path, make: Callable[[Path], object], problem: str | None
) -> None:
    if problem is None:
        make(calls)
        return
    with pytest.raises(UserError, match=problem):
        make(calls)


def test_a_folder_without_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder without audio files, by their names"):
        plan([tmp_path], Output())


# ----------------------------------------------------------------------------------------------------------- channels


@pytest.fixture
def sides(tmp_path: Path) -> Path:
    """A call: tones on the left, others on the right."""
    left, right = speak("low low", 1), speak("high high", 2)
    soundfile.write(tmp_path / "call.wav", np.stack([left, right], axis=1), 8000, subtype="FLOAT")
    return tmp_path / "call.wav"


def test_a_channel_is_read_alone(sides: Path) -> None:
    both, _ = soundfile.read(sides, dtype="float32")
    for number, column in ((1, 0), (2, 1), ("left", 0), ("right", 1)):
        samples, rate = read_audio(Channel(sides, number))
        np.testing.assert_array_equal(samples, both[:, column])
        assert rate == 8000


@pytest.mark.parametrize(("channels", "number"), [(2, 3), (1, "right"), (1, "left"), (1, 2), (6, 7)])
def test_a_channel_that_does_not_exist_is_one_line(tmp_path: Path, channels: int, number: int | str) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((800, channels)), 16000)
    with pytest.raises(AudioProblem, match=rf"a.wav has {channels} channels?, none is {number}; give "):
        read_audio(Channel(tmp_path / "a.wav", number))


def test_the_sides_of_a_call_speak_in_turns(sides: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = Output("text", channel="each")
    turns = ["left: from 0 s", "right: from 2 s", "left: from 4 s", "right: from 6 s"]
    assert transcribe([sides], output)[0] == 0
    assert capsys.readouterr().out.splitlines() == turns
    transcribe([sides, sides], output)
    assert capsys.readouterr().out.splitlines() == [f"{sides}: {turn}" for turn in [*turns, *turns]]
    transcribe([sides], output, Request(timestamps=True))
    assert capsys.readouterr().out.startswith("[0.00 --> 2.00] left: from 0 s\n[2.00 --> 4.00] right: ")


def test_every_format_says_who_speaks(sides: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = {}
    for format in ("json", "srt", "vtt", "tsv"):
        transcribe([sides], Output(format, channel="each"))
        said[format] = capsys.readouterr().out
    row = json.loads(said["json"])
    assert [(one["speaker"], one["text"]) for one in row["segments"]][:2] == [
        ("left", "from 0 s"),
        ("right", "from 2 s"),
    ]
    assert all(a["start"] <= b["start"] for a, b in pairwise(row["segments"]))
    assert [one["speaker"] for one in row["channels"]] == ["left", "right"] and row["channels"][0]["depth"] == 2
    assert "\nleft: from 0 s\n" in said["srt"] and "\nright: from 2 s\n" in said["srt"]
    assert "\n<v left>from 0 s\n" in said["vtt"] and "\n0\t2000\tleft\tfrom 0 s\n" in said["tsv"]


def test_more_than_two_channels_have_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((800, 3)) + 0.1, 16000)
    transcribe([tmp_path / "a.wav"], Output("text", channel="each"))
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()][:2] == ["channel 1", "channel 2"]


@pytest.mark.medium
def test_both_command_lines_take_one_channel(exported: Path, sides: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from layerdial.cli import device

    fast = sides.with_name("fast.wav")
    soundfile.write(fast, soundfile.read(sides)[0], 16000, subtype="FLOAT")
    for channel, text in (("left", "low low"), ("2", "high high")):
        assert command("transcribe", exported, fast, "--channel", channel).out == f"{text}\n"
        assert device._run(device._parse(["transcribe", str(exported), str(fast), "--channel", channel])) == 0
        assert capsys.readouterr().out == f"{text}\n"
    ended = command("transcribe", exported, fast, "--channel", "3")
    assert (ended.code, ended.err.count("\n")) == (2, 1) and "has 2 channels, none is 3" in ended.err


def test_what_a_model_refuses_is_said_once(exported: Path, sides: Path, tmp_path: Path) -> None:
    other = shutil.copy(sides, tmp_path / "other.wav")
    ended = command("transcribe", exported, sides, other, "--language", "de", "--output-dir", tmp_path / "out")
    assert ended.code == 2 and ended.err.count("language is for encoder-decoder models") == 1
    ended = command("transcribe", exported, sides, "--json", "--format", "srt")
    assert (ended.code, ended.err) == (2, "layerdial: --json is --format json; it excludes --format srt\n")


@pytest.mark.medium
def test_a_ctc_model_writes_subtitles_of_each_side(exported: Path, sides: Path) -> None:
    ended = command("transcribe", exported, sides, "--channel", "each", "--format", "vtt")
    assert ended.code == 0 and "<v left>low low\n" in ended.out and "<v right>" in ended.out


def test_files_are_written_in_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.srt", "größer\n")
    assert (tmp_path / "a.srt").read_bytes() == "größer\n".encode()
