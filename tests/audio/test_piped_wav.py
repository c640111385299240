"""WAV files that come through a pipe: the samples are those of the file, and are there as soon as they were written."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile

from layerdial.audio.channels import Channel
from layerdial.audio.files import AudioProblem, open_coming, read_audio

SAMPLES = np.random.default_rng(0).uniform(-0.5, 0.5, (3000, 2))
DATA = 44  # where the samples of a plain file begin


@contextmanager
def piped(folder: Path, content: bytes) -> Iterator[Path]:
    """A pipe that gives these bytes, a few at a time."""
    os.mkfifo(path := folder / "pipe")

    def write() -> None:
        with suppress(BrokenPipeError), path.open("wb", buffering=0) as pipe:
            for first in range(0, len(content), 1001):
                pipe.write(content[first : first + 1001])

    thread = threading.Thread(target=write)
    thread.start()
    yield path
    thread.join()


def wav(folder: Path, subtype: str = "PCM_16", kind: str = "WAV", length: int | None = None) -> bytes:
    """A file of `SAMPLES`; its header gives another length of the samples, if one is given."""
    soundfile.write(folder / "a.wav", SAMPLES, 16_000, subtype, format=kind)
    content = (folder / "a.wav").read_bytes()
    return content if length is None else content[: DATA - 4] + struct.pack("<I", length) + content[DATA:]


def heard(path: Path | Channel) -> np.ndarray:
    with open_coming(path) as (rate, blocks):
        assert rate == 16_000
        return np.concatenate(list(blocks))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW"])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "FLAC"])
def test_samples_are_those_of_the_file(tmp_path: Path, subtype: str, kind: str) -> None:
    if not soundfile.check_format(kind, subtype):
        return
    content = wav(tmp_path, subtype, kind)
    with piped(tmp_path, content) as path:
        np.testing.assert_array_equal(heard(path), read_audio(tmp_path / "a.wav")[0])


@pytest.mark.parametrize("length", [0, 0x7FFFFF00, 0xFFFFFFFF])
def test_where_the_header_gives_no_length_all_is_read(tmp_path: Path, length: int) -> None:
    with piped(tmp_path, wav(tmp_path, length=length)) as path:
        np.testing.assert_array_equal(heard(Channel(path, 2)), read_audio(Channel(tmp_path / "a.wav", 2))[0])


def test_samples_are_there_before_the_end(tmp_path: Path) -> None:
    content = wav(tmp_path, length=0xFFFFFFFF)
    os.mkfifo(path := tmp_path / "pipe")
    more = threading.Event()

    def write() -> None:
        with path.open("wb", buffering=0) as pipe:
            pipe.write(content[:4001])
            assert more.wait(60)
            pipe.write(content[4001:])

    thread = threading.Thread(target=write)
    thread.start()
    with open_coming(path) as (_, blocks):
        first = next(blocks)
        assert len(first) == (4001 - DATA) // 4
        more.set()
        assert len(first) + sum(map(len, blocks)) == len(SAMPLES)
    thread.join()


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    good = wav(tmp_path)
    cases = {
        "its header announces 1000 more bytes": good[:-1000],
        "another file begins behind it": good + good,
        "holds no samples": wav(tmp_path, length=0)[:DATA],
        "is not audio that can be read": good[:30],
        "is empty": b"",
        "speech is at": good[:24] + struct.pack("<I", 10) + good[28:],
        "not a finite number": wav(tmp_path, "FLOAT")[:-4] + struct.pack("<f", np.nan),
    }
    for i, (message, content) in enumerate(cases.items()):
        (folder := tmp_path / str(i)).mkdir()
        with piped(folder, content) as path, pytest.raises(AudioProblem, match=message) as problem:
            heard(path)
        assert str(path) in str(problem.value) and "\n" not in str(problem.value)


def test_notes_of_the_recorder_behind_the_samples_are_no_samples(tmp_path: Path) -> None:
    content = wav(tmp_path) + b"LIST" + struct.pack("<I", 100_000) + bytes(100_000)
    with piped(tmp_path, content) as path:
        np.testing.assert_array_equal(heard(path), read_audio(tmp_path / "a.wav")[0])
