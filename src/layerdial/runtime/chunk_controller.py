"""The depth of each chunk of a stream by the time that is left for it: pure arithmetic on times that others measure."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from layerdial.errors import UserError
from layerdial.recognition.chunk_model import ChunkModel
from layerdial.recognition.stream_depths import Choice
from layerdial.runtime.controller import CostTable, DepthOption, Load, within
from layerdial.runtime.measure import measure_table
from layerdial.subset import BlockSubset
from layerdial.utils.forks import renew_after_fork

SHARE = 0.5  # of a chunk's duration


class ChunkController:
    """Runs in each chunk the deepest option that is done within a share of the chunk's duration, or in `deadline_ms`.

    That time counts from when the chunk was there, so that a stream that has fallen behind catches up. `costs` are
    those of an idle device, by seconds of audio over all streams of a dispatch; measured times say how slow it is now.
    One controller may serve all streams of a model, so that their depth follows their load. Safe for many threads.
    """

    def __init__(
        self, costs: CostTable, options: Sequence[DepthOption], share: float = SHARE, deadline_ms: float | None = None
    ) -> None:
        if not 0 < share <= 1:
            raise UserError(f"a stream that computes for {share:g} of its time does not keep up; give 0 to 1")
        self._costs, self._options = costs, tuple(options)
        self._share, self._deadline_ms = share, deadline_ms
        self._load = Load()
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Make the lock anew: a thread of the parent may have held it."""
        self._lock = threading.Lock()

    def choose(self, chunks: Sequence[int], seconds: float, waited: float, now: float) -> list[Choice]:
        chunk_ms = 1000.0 * seconds
        allowed = self._share * chunk_ms if self._deadline_ms is None else min(self._deadline_ms, chunk_ms)
        left_ms, slow = allowed - 1000.0 * waited, self.slowdown(now)
        audio = len(chunks) * seconds
        fitting = [one for one in self._options if self._costs.total(one.depth, audio) * slow <= left_ms]
        if fitting:
            return [Choice(fitting[-1].subset, within(allowed, slow))] * len(chunks)
        least = self._costs.total(self._options[0].depth, audio) * slow
        behind = f", {1000 * waited:.0f} ms behind" if waited >= 0.001 else ""
        reason = f"shallowest: nothing keeps {allowed:.0f} ms{behind}, expected {least:.0f} ms"
        return [Choice(self._options[0].subset, reason)] * len(chunks)

    def least_ms(self, audio: float, now: float) -> float:
        """Return the time that so many seconds of audio, of streams together, take at the shallowest depth now."""
        return self._costs.total(self._options[0].depth, audio) * self.slowdown(now)

    def slowdown(self, now: float) -> float:
        """Return the time that chunks take now over their time on the idle device, 1 at the least."""
        with self._lock:
            return max(1.0, self._load.slowdown(now))

    def observe(self, subset: BlockSubset, streams: int, seconds: float, took_ms: float, now: float) -> None:
        expected = self._costs.total(subset.depth, streams * seconds)
        with self._lock:
            self._load.observe(took_ms, expected, now)


def measured_costs(model: ChunkModel, subsets: Mapping[int, BlockSubset], chunk_inputs: int, threads: int) -> CostTable:
    """Measure for a moment what a chunk of one stream costs at these depths, and one of several streams at once."""
    chunk = chunk_inputs / model.features.per_second
    run = partial(_run, model, chunk_inputs)
    return measure_table(model.features, run, subsets, threads, (chunk, _STREAMS * chunk), 0.5, 7).costs()


_STREAMS = 4


def _run(model: ChunkModel, chunk_inputs: int, inputs_TF: NDArray[np.float32], subset: BlockSubset) -> None:
    """Run a chunk of as many streams as the inputs have chunks."""
    chunks_BTF = inputs_TF[: len(inputs_TF) // chunk_inputs * chunk_inputs].reshape(
        -1, chunk_inputs, inputs_TF.shape[1]
    )
    streams = len(chunks_BTF)
    model.step(chunks_BTF, np.full(streams, chunk_inputs), subset, model.begin(streams))
