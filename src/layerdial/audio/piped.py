"""Audio that comes through a pipe (`-`, `/dev/stdin`, a FIFO, `<(…)`): read once, and held."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from layerdial.audio.layout import AudioProblem

LARGEST = 1 << 30
"""Bytes that are taken from a pipe."""

_STDIN = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")


@dataclass(frozen=True)
class PipedAudio:
    """The bytes that came through a pipe, and its name."""

    name: str
    content: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.name


def hold(path: str | Path | PipedAudio) -> Path | PipedAudio:
    """Return `path`, or, where it is a pipe, which can be read only once, what comes out of it.

    Raises `AudioProblem` for more than `LARGEST` bytes, `OSError` for what cannot be read.
    """
    if isinstance(path, PipedAudio):
        return path
    pipe = open_pipe(path)
    return Path(path) if pipe is None else held_of(path, pipe)


def open_pipe(path: str | Path) -> BinaryIO | None:
    """Return the pipe at a path, open for reading; none where there is none. Raises `OSError`."""
    place = Path(path)
    if str(path) != "-" and (not place.exists() or place.is_file() or place.is_dir()):
        return None
    return open(0, "rb", closefd=False) if str(path) in _STDIN else place.open("rb")


def held_of(path: str | Path, pipe: BinaryIO, begin: bytes = b"") -> PipedAudio:
    """Return all that comes out of a pipe, behind what has been read; close it. Raises as `hold` does."""
    with pipe:
        content = begin + pipe.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise AudioProblem(f"{path} gives more than {LARGEST >> 20} MB; write long audio to a file")
    return PipedAudio("standard input" if str(path) in _STDIN else str(path), content)
