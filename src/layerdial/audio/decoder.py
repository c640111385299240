"""libsndfile on a file, on the pieces of one, or on bytes that came through a pipe: frames by the number, as floats."""

from __future__ import annotations

import io
import os
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.layout import Layout, Spliced
from layerdial.audio.quiet import without_decoder_notes

_MP3_RUN_UP = 12 * 1152  # samples


class OpenFiles:
    """What is open for a decoder, and closed where its `with` ends."""

    _stack: ExitStack

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open."""
        self._stack.close()


class Decoder(OpenFiles):
    """The samples of one recording, be it one stream or several that follow each other.

    Raises what `soundfile` raises, and `ValueError` where streams that follow each other do not fit together.
    """

    def __init__(self, source: Path | bytes, layout: Layout) -> None:
        streams, self._is_mpeg = layout.streams, layout.is_mpeg
        with ExitStack() as stack, without_decoder_notes(self._is_mpeg):
            inputs: list[Any] = [os.fsencode(source) if isinstance(source, Path) else io.BytesIO(source)]
            if streams:
                file = stack.enter_context(open_source(source))
                inputs = [Spliced(file, pieces) for pieces in streams]
            self._parts = [stack.enter_context(_sound_file()(part)) for part in inputs]
            self.samplerate, self.channels = int(self._parts[0].samplerate), int(self._parts[0].channels)
            kinds = {(part.samplerate, part.channels) for part in self._parts}
            if len(kinds) > 1:
                found = " and ".join(
                    f"{rate} Hz with {channels} channel{'s' * (channels > 1)}" for rate, channels in sorted(kinds)
                )
                raise ValueError(f"it holds recordings of several kinds one after the other ({found}); split it")
            self.frames = sum(int(part.frames) for part in self._parts)
            self._stack, self._at = stack.pop_all(), 0

    def seek(self, frame: int) -> None:
        """Go to a frame of the whole; behind the end there is nothing to read."""
        with without_decoder_notes(self._is_mpeg):
            self._seek(frame)

    def _seek(self, frame: int) -> None:
        for number, part in enumerate(self._parts):
            within = max(0, min(frame, int(part.frames)))
            # the frames of an MP3 lean on earlier ones, which libsndfile does not read again: it would give silence
            run_up = min(within, _MP3_RUN_UP) if part.format == "MP3" else 0
            part.seek(within - run_up)
            part.read(run_up, dtype="float32")
            if frame >= 0:
                self._at = number
            frame -= int(part.frames)

    def read(self, frames: int) -> NDArray[np.float32]:
        """Return the next (S, C) samples, fewer than `frames` where a stream ends, none at the end of all."""
        with without_decoder_notes(self._is_mpeg):
            while True:
                block: NDArray[np.float32] = self._parts[self._at].read(frames, dtype="float32", always_2d=True)
                if len(block) or self._at + 1 == len(self._parts):
                    return block
                self._at += 1


@cache
def _sound_file() -> Any:
    """Return `soundfile.SoundFile`, without the seek that it makes behind every read of a file that can be sought in.

    In an MP3, libsndfile begins anew there, and half a frame comes out as silence at every block.
    """
    import soundfile

    class SoundFile(soundfile.SoundFile):  # type: ignore[misc]
        def seekable(self) -> bool:
            return False

    return SoundFile


def open_source(source: Path | bytes) -> BinaryIO:
    """Return a file, or bytes as one, open for reading."""
    return source.open("rb") if isinstance(source, Path) else io.BytesIO(source)
