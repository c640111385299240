"""A model that takes speech in chunks, as torch's and ONNX Runtime's implement it, and what a stream keeps.

Shapes: B streams, T inputs, F mel bins, N blocks, L frames of left context, K = kernel - 1, P the more of both, D
width, E = 2D, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.features import Features
from layerdial.errors import UserError
from layerdial.subset import BlockSubset

CHUNK_MS = 320
"""The size of a stream's chunks, where nobody gives one."""
LONGEST_CHUNK_MS = 60_000
"""The largest size of chunks, and of what attention sees before one, as in a recipe."""


class Kept(Protocol):
    """What streams keep between chunks, in whatever form a model has it. A step makes new ones and changes none."""

    @property
    def seen_B(self) -> NDArray[np.int64]:
        """Frames of each stream so far."""
        ...

    def arrays(self) -> StreamCaches:
        """Return it as arrays."""
        ...

    def parted(self) -> list[Kept]:
        """Return what each stream keeps; the inverse of `joined`."""
        ...

    def joined(self, others: Sequence[Kept]) -> Kept:
        """Return what several streams keep, these and others of the same model, as that of one batch."""
        ...


class StreamCaches(NamedTuple):
    """What B streams keep between chunks, as arrays; see `layerdial.models.streaming.Caches` for the meaning.

    float32, but for `seen_B`, which is int64, and `raw_NBP`, which is bool.
    """

    seen_B: NDArray[np.int64]
    input_B1F: NDArray[np.float32]
    middle_B1D: NDArray[np.float32]
    keys_NBLE: NDArray[np.float32]
    gated_NBKD: NDArray[np.float32]
    raw_NBP: NDArray[np.bool_]

    def arrays(self) -> StreamCaches:
        return self

    def parted(self) -> list[Kept]:
        return [*parted_arrays(self)]

    def joined(self, others: Sequence[Kept]) -> Kept:
        return joined_arrays([self, *(other.arrays() for other in others)])


STREAM_AXES = (0, 0, 0, 1, 1, 1)
"""The axis of the streams in each cache."""


def joined_arrays(caches: Sequence[StreamCaches]) -> StreamCaches:
    """Return the caches of several streams as those of one batch."""
    return _made(
        np.concatenate(parts, axis) for parts, axis in zip(zip(*caches, strict=True), STREAM_AXES, strict=True)
    )


def parted_arrays(caches: StreamCaches) -> list[StreamCaches]:
    """Return the caches of each stream of a batch; the inverse of `joined_arrays`."""
    parts: list[NDArray[Any]] = list(caches)
    streams = range(len(caches.seen_B))
    return [_made(part.take([row], axis) for part, axis in zip(parts, STREAM_AXES, strict=True)) for row in streams]


def check_caches(caches: StreamCaches, fresh: StreamCaches, streams: int) -> None:
    """Raise `UserError` unless caches are of so many streams, and of the model of `fresh`, those of one stream."""
    parts: list[NDArray[Any]] = list(caches)
    own_parts: list[NDArray[Any]] = list(fresh)
    for part, own, axis in zip(parts, own_parts, STREAM_AXES, strict=True):
        of_one = (*part.shape[:axis], 1, *part.shape[axis + 1 :])
        check_kept(of_one == own.shape and part.dtype == own.dtype, part.shape[axis], streams)


def check_kept(own: bool, kept: int, streams: int) -> None:
    """Raise `UserError` unless what so many streams keep is of the own model, and of as many as the chunk."""
    if not own:
        raise UserError("the caches are of another model; begin() makes those of this one")
    if kept != streams:
        raise UserError(f"the caches are of {kept} streams, the chunk is of {streams}")


def _made(parts: Iterable[Any]) -> StreamCaches:
    return StreamCaches(*parts)


class ChunkModel(Protocol):
    """A loaded streaming model, whose depth may change from one chunk to the next."""

    @property
    def n_blocks(self) -> int: ...

    @property
    def features(self) -> Features: ...

    def begin(self, streams: int = 1) -> Kept:
        """Return the caches of streams that have heard nothing."""
        ...

    def step(
        self, inputs_BTF: NDArray[np.float32], lengths_B: NDArray[np.int64], subset: BlockSubset, caches: Kept
    ) -> tuple[NDArray[np.float32], Kept]:
        """Run the blocks of `subset` on the next chunk of each stream: log-probabilities (B, T', V), and new caches.

        Of a stream's output, the first `features.frames(lengths_B)` frames are real. Lengths are multiples of four
        inputs, except in a stream's last chunk; a stream of length 0 is left as it is. Raises `UserError` for caches of
        another model or another number of streams.
        """
        ...
