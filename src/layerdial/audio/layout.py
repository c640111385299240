"""How a file is to be read: as it is, or pieced together from its parts; and what is missing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from layerdial.errors import UserError


class AudioProblem(UserError):
    """A recording that cannot be used: its text names the file or cut, what was found, and what would be right."""


Piece = bytes | tuple[int, int]
"""Bytes as they are, or those of a file from one position to another."""


@dataclass(frozen=True)
class Layout:
    """What is missing at the end of a file by its own account, and the streams to read instead of the file as it is.

    Each stream is what libsndfile takes for a file; without any, the file itself is. `damage` says what is wrong
    within, `note` is one line to tell whoever reads it. `is_mpeg`: libmpg123 reads it, or may.
    """

    missing: str | None = None
    damage: str | None = None
    streams: tuple[tuple[Piece, ...], ...] = ()
    note: str = ""
    is_mpeg: bool = False


class Spliced(io.RawIOBase):
    """A file of pieces, to be read and sought in. A read that fails ends it: libsndfile prints what is raised in it."""

    def __init__(self, file: BinaryIO, pieces: Sequence[Piece]) -> None:
        super().__init__()
        self._file, self._at = file, 0
        self._pieces = [piece for piece in pieces if _length(piece) > 0]
        self._size = sum(map(_length, self._pieces))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, begin + offset)
        return self._at

    def readinto(self, buffer: object) -> int:
        view, done, start = memoryview(buffer).cast("B"), 0, 0  # type: ignore[arg-type]
        for piece in self._pieces:
            length = _length(piece)
            while start <= self._at < start + length and done < len(view):
                got = self._read(piece, self._at - start, len(view) - done)
                if not got:
                    return done
                view[done : done + len(got)] = got
                done, self._at = done + len(got), self._at + len(got)
            start += length
        return done

    def _read(self, piece: Piece, skip: int, most: int) -> bytes:
        if isinstance(piece, bytes):
            return piece[skip : skip + most]
        try:
            self._file.seek(piece[0] + skip)
            return self._file.read(min(most, piece[1] - piece[0] - skip))
        except (OSError, ValueError):
            return b""


def _length(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]
