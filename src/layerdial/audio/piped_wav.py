"""A WAV file that comes through a pipe, as a recorder writes it: read while it comes."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.containers import is_placeholder
from layerdial.audio.pcm import PcmForm, PcmFrames
from layerdial.audio.piped import PipedAudio, held_of, open_pipe

_LARGEST_HEAD = 1 << 16  # bytes in front of the samples
_SUBTYPES = {
    (1, 8): "PCM_U8",
    (1, 16): "PCM_16",
    (1, 24): "PCM_24",
    (1, 32): "PCM_32",
    (3, 32): "FLOAT",
    (3, 64): "DOUBLE",
    (6, 8): "ALAW",
    (7, 8): "ULAW",
}
_EXTENSIBLE = 0xFFFE


class PipedWav:
    """The samples of a WAV file that are still to come, read as a decoder's are.

    `length` is what its header says of them, in bytes; none where it says nothing.
    """

    def __init__(self, pipe: BinaryIO, form: PcmForm, length: int | None) -> None:
        self._pipe, self._frames, self._left = pipe, PcmFrames(form), length
        self.samplerate, self.channels = form.rate, form.channels

    def read(self, frames: int) -> NDArray[np.float32]:
        """Return the samples (S, C) that are there, up to so many, and wait where there are none; none at the end.

        Raises `ValueError` where the end comes before its time, and where another file begins behind it.
        """
        most = frames * self._frames.form.width * self.channels
        while True:
            content = self._pipe.read1(most if self._left is None else min(most, self._left))  # type: ignore[attr-defined]
            if not content:
                self._end()
                return np.zeros((0, self.channels), np.float32)
            self._left = None if self._left is None else self._left - len(content)
            found_SC = self._frames.feed(content)
            if len(found_SC):
                return found_SC

    def close(self) -> None:
        """Close the pipe, which ends who writes into it."""
        self._pipe.close()

    def _end(self) -> None:
        if self._left:
            raise ValueError(f"its header announces {self._left} more bytes")
        behind = self._pipe.read(5) if self._left == 0 else b""
        if b"RIFF" in behind:
            raise ValueError("another file begins behind it; files joined end to end are to be taken apart")
        while behind:  # notes of the recorder; who writes them is not to meet a closed pipe
            behind = self._pipe.read(1 << 16)


def coming(path: str | Path | PipedAudio) -> Path | PipedAudio | PipedWav:
    """Return what `hold` does, but of a pipe with a WAV file its samples, as soon as its header is there.

    Raises as `hold` does.
    """
    if isinstance(path, PipedAudio) or (pipe := open_pipe(path)) is None:
        return path if isinstance(path, PipedAudio) else Path(path)
    head = pipe.read(12)
    found: tuple[PcmForm, int | None] | None = None
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        head, found = _head(pipe, head)
    return held_of(path, pipe, head) if found is None else PipedWav(pipe, *found)


def _head(pipe: BinaryIO, head: bytes) -> tuple[bytes, tuple[PcmForm, int | None] | None]:
    """Read up to the samples. Return all that was read, and the form and the length of what follows.

    That is none where it is not plain samples, or where another reader should say what is wrong.
    """
    form: PcmForm | None = None
    while len(chunk := pipe.read(8)) == 8:
        head += chunk
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            unknown = size == 0 or is_placeholder(size)
            return head, None if form is None else (form, None if unknown else size)
        if size > _LARGEST_HEAD:
            return head, None
        content = pipe.read(size + size % 2)
        head += content
        if name == b"fmt ":
            form = _form(content)
    return head + chunk, None


def _form(content: bytes) -> PcmForm | None:
    """Return the form of samples by a chunk `fmt`; none where they are not plain."""
    if len(content) < 16:
        return None
    kind, channels, rate, _, block, bits = struct.unpack("<HHIIHH", content[:16])
    if kind == _EXTENSIBLE and len(content) >= 26:
        kind = int.from_bytes(content[24:26], "little")
    subtype = _SUBTYPES.get((kind, bits))
    if subtype is None or not channels or block != channels * bits // 8:
        return None
    return PcmForm(subtype, bits // 8, rate, channels)
