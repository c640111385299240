"""An exported streaming graph in ONNX Runtime: a chunk of each stream at any depth, and whole files in chunks.

Shapes: B streams, T inputs, F mel bins, N blocks, C what a block keeps of a frame, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.features import Features
from layerdial.errors import UserError
from layerdial.recognition.chunk_model import Kept, StreamCaches, check_caches, check_kept
from layerdial.runtime.kept_streams import KeptStream, KeptStreams, Sizes
from layerdial.runtime.manifest import FILE, GRAPH, Manifest, read_features
from layerdial.runtime.session import INPUTS, OUTPUTS, Cancel, LoadedGraph, check_ends, check_export_of, gates_of
from layerdial.runtime.streaming_facts import CACHES, StreamingFacts
from layerdial.subset import BlockSubset, ChunkSchedule

STREAMING_INPUTS = (*INPUTS, *CACHES)
_NEW = ("next_input", "next_middle", "entering", "added")
_CAUGHT = ("caught_keys", "caught_gated")
STREAMING_OUTPUTS = (*OUTPUTS, *_NEW, *_CAUGHT)
_TYPES = {"seen": np.int64, "raw": np.bool_}  # others are float32


class StreamingSession:
    """The graph of a model that takes speech in chunks: a `ChunkModel`, which also takes whole utterances."""

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        assert manifest.streaming is not None
        self.manifest, self.facts, self.threads = manifest, manifest.streaming, threads
        self.features: Features = read_features(manifest.features)
        self.file = folder / GRAPH
        self.graph = LoadedGraph(self.file, threads, lambda session: _check(session, manifest, self.facts, self.file))

    @property
    def n_blocks(self) -> int:
        return self.manifest.n_blocks

    def begin(self, streams: int = 1) -> KeptStreams:
        """Return what streams keep that have heard nothing."""
        return KeptStreams(tuple(KeptStream.begin(self._sizes) for _ in range(streams)))

    @cached_property
    def _fresh(self) -> StreamCaches:
        shapes = zip(CACHES, self.facts.shapes(1), strict=True)
        made: list[Any] = [np.zeros(shape, _TYPES.get(name, np.float32)) for name, shape in shapes]
        return StreamCaches(*made)

    @cached_property
    def _sizes(self) -> Sizes:
        return Sizes.of(self._fresh)

    def step(
        self,
        inputs_BTF: NDArray[np.float32],
        lengths_B: NDArray[np.int64],
        subset: BlockSubset,
        caches: Kept,
        cancel: Cancel | None = None,
    ) -> tuple[NDArray[np.float32], KeptStreams]:
        """Run the blocks of `subset` on the next chunk of each stream; see `ChunkModel.step`.

        Also raises `UserError` for inputs that are not finite numbers, and `Cancelled` when `cancel` was called in the
        meantime.
        """
        self._check_chunk(inputs_BTF, lengths_B)
        return self._run(inputs_BTF, lengths_B, subset, self._own(caches, len(inputs_BTF)), cancel)

    def _own(self, caches: Kept, streams: int) -> KeptStreams:
        """Return what so many streams keep. Raises `UserError` for that of another model or of others."""
        if isinstance(caches, KeptStreams):
            check_kept(all(one.sizes == self._sizes for one in caches.streams), len(caches.streams), streams)
        else:
            check_caches(caches.arrays(), self._fresh, streams)
        return KeptStreams.of(caches, self._sizes)

    def posteriors(
        self,
        inputs: NDArray[np.float32],
        lengths_B: NDArray[np.int64],
        subset: BlockSubset | ChunkSchedule,
        cancel: Cancel | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return log-probabilities and valid frames of zero-padded utterances, as `Session.posteriors` does.

        With a subset, they are taken in chunks of the size that the manifest says, or each as one chunk.
        """
        if isinstance(subset, BlockSubset):
            whole = self.features.frames(inputs.shape[1])
            subset = ChunkSchedule((self.facts.file_frames or whole,), (subset,))
        return self.in_chunks(inputs, lengths_B, subset, cancel)

    def in_chunks(
        self,
        inputs_BTF: NDArray[np.float32],
        lengths_B: NDArray[np.int64],
        schedule: ChunkSchedule,
        cancel: Cancel | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return log-probabilities (B, T', V) and valid frames (B,) of zero-padded utterances in chunks."""
        caches, made = self.begin(len(inputs_BTF)), list[NDArray[np.float32]]()
        for chunk_BTF, lengths, subset in self._cut(inputs_BTF, lengths_B, schedule):
            logp_BTV, caches = self._run(chunk_BTF, lengths, subset, caches, cancel)
            made.append(logp_BTV)
        return np.concatenate(made, axis=1), self.features.frames(lengths_B)

    def _cut(
        self, inputs_BTF: NDArray[np.float32], lengths_B: NDArray[np.int64], schedule: ChunkSchedule
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64], BlockSubset]]:
        """Yield the chunks, with the lengths in them, and the blocks that run."""
        frame = self.features.per_second * self.facts.frame_ms // 1000  # in inputs
        for first, end, subset in schedule.chunks(self.features.frames(inputs_BTF.shape[1])):
            chunk_BTF = inputs_BTF[:, frame * first : frame * end]
            yield chunk_BTF, np.clip(lengths_B - frame * first, 0, chunk_BTF.shape[1]), subset

    def _run(
        self,
        inputs_BTF: NDArray[np.float32],
        lengths_B: NDArray[np.int64],
        subset: BlockSubset,
        kept: KeptStreams,
        cancel: Cancel | None,
    ) -> tuple[NDArray[np.float32], KeptStreams]:
        gates_N = gates_of(subset, self.n_blocks, "encoder")
        late = kept.late(subset)
        caches = kept.feed(self._sizes, subset, late)
        feed = dict(zip(STREAMING_INPUTS, (inputs_BTF, lengths_B, gates_N, *caches), strict=True))
        logp_BTV, frames_B, *new = self.graph.run(STREAMING_OUTPUTS, feed, cancel)
        return logp_BTV, kept.behind(subset, late, frames_B, *new)

    def _check_chunk(self, inputs_BTF: NDArray[np.float32], lengths_B: NDArray[np.int64]) -> None:
        """Raise `UserError` for a chunk that the graph does not take."""
        bins = self.facts.bins
        if inputs_BTF.dtype != np.float32 or inputs_BTF.ndim != 3 or inputs_BTF.shape[2] != bins:
            raise UserError(
                f"a chunk is float32 of shape (streams, inputs, {bins}), found {inputs_BTF.dtype} {inputs_BTF.shape}"
            )
        if not inputs_BTF.size:
            raise UserError(f"a chunk has one input or more, found {inputs_BTF.shape}")
        if lengths_B.dtype != np.int64 or lengths_B.shape != inputs_BTF.shape[:1]:
            raise UserError(
                f"lengths are int64, one for each of {len(inputs_BTF)} streams, found {lengths_B.dtype} of shape "
                f"{lengths_B.shape}"
            )
        if lengths_B.min() < 0 or lengths_B.max() > inputs_BTF.shape[1]:
            raise UserError(f"lengths {lengths_B.tolist()} are not all within a chunk of {inputs_BTF.shape[1]} inputs")
        if not np.isfinite(inputs_BTF).all():
            raise UserError("a chunk has numbers that are not finite (NaN or infinity); leave out broken audio")


def _check(session: Any, manifest: Manifest, facts: StreamingFacts, file: Path) -> None:
    """Raise `UserError` unless the graph is the one that the manifest was written for."""
    if {f"next_{name}" for name in CACHES} <= {value.name for value in session.get_outputs()}:
        raise UserError(f"{file} is of an earlier layerdial, and gives whole caches; export the model again")
    check_ends(session, file, STREAMING_INPUTS, STREAMING_OUTPUTS)
    check_export_of(session, manifest, file)
    found = [value.shape for value in session.get_inputs()[len(INPUTS) :]]
    for name, shape, expected in zip(CACHES, found, facts.caches.values(), strict=True):
        if [None if isinstance(size, str) else size for size in shape] != list(expected):
            raise UserError(f"{file} has another cache {name} than its {FILE}; they are not from one export")
