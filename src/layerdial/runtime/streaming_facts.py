"""What a manifest says of a graph that takes speech in chunks.

Shapes: B streams, L frames of left context, N blocks, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from layerdial.audio.features import Features
from layerdial.audio.files import SAMPLE_RATE
from layerdial.recognition.chunk_model import LONGEST_CHUNK_MS, STREAM_AXES, StreamCaches
from layerdial.utils.records import between

CACHES = tuple(name.rpartition("_")[0] for name in StreamCaches._fields)
"""Inputs of a streaming graph, as the fields of `StreamCaches` without their axes."""

_DIMENSIONS = tuple(len(name.rpartition("_")[2]) for name in StreamCaches._fields)
ChunkMs = int | Literal["full"]


@dataclass(frozen=True, slots=True)
class StreamingFacts:
    """What a program needs to know to run the graph in chunks.

    `chunk_ms` are the sizes that it was trained with, "full" a whole utterance; it takes any multiple of `frame_ms`,
    which is a frame of its output. `file_chunk_ms` is the size in which whole files are recognised. `caches` has the
    shape of each cache, with none for the number of streams.
    """

    frame_ms: int
    chunk_ms: tuple[ChunkMs, ...]
    file_chunk_ms: ChunkMs
    left_context_ms: int
    caches: dict[str, tuple[int | None, ...]]

    def shapes(self, streams: int) -> list[tuple[int, ...]]:
        """Return the shape of each cache of so many streams."""
        return [tuple(streams if size is None else size for size in shape) for shape in self.caches.values()]

    @property
    def file_frames(self) -> int | None:
        """The size of chunks in which files are recognised, in frames of the output; none for the whole."""
        return None if self.file_chunk_ms == "full" else self.file_chunk_ms // self.frame_ms

    def in_chunks(self) -> StreamingFacts:
        """Return the same for files in chunks: of the size for files, or else of the largest one in training."""
        sizes = [size for size in (self.file_chunk_ms, *self.chunk_ms) if size != "full"]
        return self if self.file_chunk_ms != "full" or not sizes else replace(self, file_chunk_ms=max(sizes))

    @property
    def bins(self) -> int:
        """The width of an input."""
        return self.caches["input"][2] or 0

    @classmethod
    def parse(cls, stored: dict[str, Any], features: Features, n_blocks: int) -> StreamingFacts:
        """Return what a manifest has; `ValueError`, `TypeError` or `KeyError` where it is damaged."""
        if set(stored["caches"]) != set(CACHES):
            raise ValueError(f"caches are {', '.join(stored['caches'])}, expected {', '.join(CACHES)}")
        caches = {name: tuple(stored["caches"][name]) for name in CACHES}
        facts = cls(**{**stored, "chunk_ms": tuple(stored["chunk_ms"]), "caches": caches})
        if 1000 * features.samples_per_frame != SAMPLE_RATE * between("frame_ms", facts.frame_ms, 1, LONGEST_CHUNK_MS):
            raise ValueError(f"frame_ms is {facts.frame_ms}, which its features do not make")
        if not facts.chunk_ms:
            raise ValueError("chunk_ms is empty")
        for size in (*facts.chunk_ms, facts.file_chunk_ms):
            if size != "full":
                facts._check_size("a size of chunks", size)
        facts._check_size("left_context_ms", facts.left_context_ms)
        facts._check_caches(n_blocks)
        return facts

    def _check_size(self, name: str, size: Any) -> None:
        if between(name, size, self.frame_ms, LONGEST_CHUNK_MS) % self.frame_ms:
            raise ValueError(f"{name} is {size}, expected a multiple of {self.frame_ms} ms")

    def _check_caches(self, n_blocks: int) -> None:
        for (name, shape), axis, dimensions in zip(self.caches.items(), STREAM_AXES, _DIMENSIONS, strict=True):
            if len(shape) != dimensions or shape[axis] is not None:
                raise ValueError(f"the cache {name} has the shape {list(shape)}")
            for place, size in enumerate(shape):
                if place != axis:
                    between(f"a size of the cache {name}", size, 0, 1_000_000)
            if axis == 1 and shape[0] != n_blocks:
                raise ValueError(f"the cache {name} is of {shape[0]} blocks, expected {n_blocks}")
        left, blocks_left = self.caches["keys"][2], self.left_context_ms // self.frame_ms
        if left != blocks_left:
            raise ValueError(f"the cache keys holds {left} frames, left_context_ms makes {blocks_left}")
