"""Transcribing with an exported model, at a depth of one's choice or the deepest that keeps a promise."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdial.audio import probe
from layerdial.cost import Cost
from layerdial.errors import UserError
from layerdial.features import SAMPLE_RATE, Features
from layerdial.ladder import Ladder, choose_subset
from layerdial.recognizer import (
    Audio,
    Chunk,
    FeatureBatch,
    Transcript,
    WindowResult,
    collate_features,
    recognize_windows,
)
from layerdial.runtime.controller import CostTable, DepthController, DepthOption, Plan, worthwhile
from layerdial.runtime.manifest import Manifest, read_features
from layerdial.runtime.measure import measure_table
from layerdial.runtime.profile import Profile
from layerdial.runtime.session import Cancel, Cancelled, Session, default_threads, usable_cpus
from layerdial.runtime.watchdog import Watchdog
from layerdial.subset import Blocks, BlockSubset
from layerdial.text import BLANK, PieceTable, batch_texts, greedy_ctc, read_tokens
from layerdial.windows import WINDOW_SECONDS, windows

_log = logging.getLogger(__name__)
_WATCHDOG = Watchdog()


@dataclass(frozen=True)
class _Promise:
    """What a request asked for; at most one of the first four. Times are of `time.perf_counter()`.

    With `confidence`, `first` is what runs before (default: the shallowest). `seconds` is the length of the audio.
    """

    subset: BlockSubset | None = None
    deadline: float | None = None
    target_rtf: float | None = None
    max_cpu: float | None = None
    confidence: float | None = None
    first: BlockSubset | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class _Run:
    """One pass through the network."""

    frame_ids: list[int]
    confidence: float
    subset: BlockSubset
    reason: str


@dataclass(frozen=True)
class _Window:
    """One stretch of audio: its features, its seconds with context and those that count, and when it has to be done."""

    inputs: NDArray[np.float32]
    seconds: float
    counted: float
    promise: _Promise
    finish: float | None


class OnnxRecognizer:
    """An exported folder, loaded. One may serve any number of threads at once; no more run than there are CPUs for.

    `threads` are those of one request; the default is what was fastest in the profile, without one as many as the
    process may use, four at most. Raises `UserError` for
    a folder that is no export, is damaged, or whose parts do not belong together.
    """

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise UserError(f"threads is {threads}; give 1 or more")
        folder = Path(folder)
        self.manifest = Manifest.load(folder)
        self._profile = Profile.beside(folder, self.manifest.model_id)
        fastest = self._profile.best_threads() if self._profile else default_threads()
        self.session = Session(folder, self.manifest, threads or fastest)
        self.folder = folder
        self.features: Features = read_features(self.manifest.features)
        self.ladder = Ladder.beside(folder, self.n_blocks)
        self.tokenizer = self._read_tokens(folder)
        self._controller: DepthController | None = None
        self._making = threading.Lock()
        self._slots = threading.BoundedSemaphore(max(1, usable_cpus() // self.threads))

    def _read_tokens(self, folder: Path) -> PieceTable:
        tokens = read_tokens(folder / "tokens.txt")
        if len(tokens) != self.manifest.vocab_size:
            raise UserError(f"{folder}: tokens.txt has {len(tokens)} tokens, the model {self.manifest.vocab_size}")
        return PieceTable(tokens, self.manifest.silent_tokens)

    @property
    def n_blocks(self) -> int:
        return self.manifest.n_blocks

    @property
    def threads(self) -> int:
        return self.session.threads

    def subset(self, depth: int | None = None) -> BlockSubset:
        """The blocks to run at `depth` (None: all): the ladder's choice, or evenly spaced without a ladder."""
        return choose_subset(self.ladder, self.n_blocks, depth)

    @property
    def device(self) -> str:
        return "cpu"

    @property
    def has_loss(self) -> bool:
        return False

    def cost(self, subset: Blocks) -> Cost:
        """Return parameters in use and multiply-accumulates per second of audio, as counted at export."""
        return self.manifest.costs.of(_fixed(subset))

    def warm_up(self, seconds: float = 10.0) -> None:
        """Run every block once on so much silence, so that the first request waits for neither memory nor imports."""
        import soundfile  # noqa: F401 - what reads files is imported when first used, which takes as long as a request
        import soxr  # noqa: F401

        self.run(self.features(np.zeros(round(seconds * SAMPLE_RATE), np.float32)), BlockSubset.full(self.n_blocks))

    # ------------------------------------------------------------------------------------------------ one request

    def transcribe(
        self,
        audio: Audio,
        depth: int | None = None,
        subset: BlockSubset | None = None,
        *,
        deadline_ms: float | None = None,
        target_rtf: float | None = None,
        max_cpu: float | None = None,
        confidence: float | None = None,
        first_depth: int | None = None,
    ) -> Transcript:
        """What is said in a file, or in an array of samples (S,) at 16 kHz within [-1, 1].

        `depth` picks the ladder's subset, `subset` is taken as it is. Or the deepest is picked that keeps a promise:
        to be done `deadline_ms` from now, in `target_rtf` seconds a second of audio, or with `max_cpu` seconds of
        computing a second of audio; if nothing keeps it, the shallowest runs, and the result's `reason` says so. With
        none of them all blocks run. With `confidence` (0 to 1) `first_depth` runs first (default: the shallowest), and
        the depth that would have run only where the mean posterior of the frames that say something is below it.

        Raises `UserError` for a file that is not audio or empty, a depth that the model does not have, samples that
        are not finite, and promises that make no sense.
        """
        wishes = {"deadline_ms": deadline_ms, "target_rtf": target_rtf, "max_cpu": max_cpu}
        self._check_wishes({"depth": depth, "subset": subset, **wishes}, confidence, first_depth)
        wished = any(wish is not None for wish in wishes.values())
        if wished or confidence is not None:
            self._make_controller()  # may measure, for want of a profile; that is not part of the request
        start = time.perf_counter()
        if depth is not None or (subset is None and confidence is None and not wished):
            subset = self.subset(depth)
        promise = _Promise(
            subset,
            None if deadline_ms is None else start + deadline_ms / 1000.0,
            target_rtf,
            max_cpu,
            confidence,
            None if first_depth is None else self.subset(first_depth),
            0.0 if deadline_ms is None else _seconds_of(audio),
        )
        ids, chunks, seconds = recognize_windows(
            audio, self.features, lambda samples, begin, end: self._recognize_window(samples, begin, end, promise)
        )
        text = self.tokenizer.decode(greedy_ctc(ids))
        deepest = max(chunks, key=lambda chunk: chunk.depth)
        taken = time.perf_counter() - start
        return Transcript(text, deepest.subset, seconds, taken / seconds, deepest.reason, chunks)

    def transcribe_batch(
        self, audios: Sequence[NDArray[np.float32]], depth: int | None = None, subset: BlockSubset | None = None
    ) -> list[str]:
        """Texts of several arrays of samples (S,) of at most 30 s, run as one zero-padded batch."""
        if depth is not None and subset is not None:
            raise UserError("give depth or subset, not both")
        if not audios:
            return []
        rows = [list(windows(samples)) for samples in audios]
        if any(len(row) > 1 for row in rows):
            raise UserError(f"a batch takes audio of at most {WINDOW_SECONDS} s each; transcribe cuts longer audio")
        features = [self.features(row[0].samples) for row in rows]
        with self._slots:
            return self.recognize(
                collate_features([""] * len(rows), features, [""] * len(rows), 0.0), subset or self.subset(depth)
            )

    def recognize(self, batch: FeatureBatch, subset: Blocks) -> list[str]:
        """Text of each utterance of a batch. The graph takes gates: it has no selector that a budget could ask."""
        logp_BTV, frames_B = self.session.posteriors(batch.inputs, batch.lengths_B, _fixed(subset))
        return batch_texts(self.tokenizer.decode, logp_BTV.argmax(axis=-1).tolist(), frames_B.tolist())

    def loss_and_text(self, batch: FeatureBatch, subset: Blocks) -> tuple[float, list[str]]:
        """Return no loss (infinity), and the text of each utterance of a batch."""
        return math.inf, self.recognize(batch, subset)

    def pass_over(self, batch: FeatureBatch, subset: Blocks) -> Callable[[], object]:
        """Return a function that runs the graph alone on a batch."""
        return partial(self.session.posteriors, batch.inputs, batch.lengths_B, _fixed(subset))

    @staticmethod
    def _check_wishes(given: Mapping[str, Any], confidence: float | None, first_depth: int | None) -> None:
        names = [name for name, value in given.items() if value is not None]
        if len(names) > 1:
            raise UserError(f"give one of {', '.join(names)}, not {len(names)}")
        for name in set(names) - {"depth", "subset"}:
            if not given[name] > 0:  # not a number, too
                raise UserError(f"{name} is {given[name]}; give a number above 0")
        if confidence is not None and not 0 <= confidence <= 1:
            raise UserError(f"confidence is {confidence}; give a number from 0 to 1")
        if first_depth is not None and confidence is None:
            raise UserError("first_depth is what runs before another depth; give confidence too")

    # ------------------------------------------------------------------------------------------------- one window

    def _recognize_window(
        self, samples: NDArray[np.float32], begin: float, end: float, promise: _Promise
    ) -> WindowResult:
        asked = time.perf_counter()
        with self._slots:
            start = time.perf_counter()
            inputs = self.features(samples)
            if promise.subset is not None and promise.confidence is None:
                run = self.run(inputs, promise.subset)
            else:
                now = time.perf_counter()
                seconds = len(samples) / SAMPLE_RATE
                self.controller.observe_features(seconds, 1000.0 * (now - start), now)
                window = _Window(inputs, seconds, end - begin, promise, self._finish(promise, asked, begin, end))
                run = self._kept(window) if promise.confidence is None else self._surely(window, promise.confidence)
        waited = 1000.0 * (start - asked)
        reason = f"{run.reason}, after waiting {waited:.0f} ms for others" if run.reason and waited > 5 else run.reason
        return WindowResult(run.frame_ids, Chunk(begin, end, run.subset, reason, run.confidence))

    @staticmethod
    def _finish(promise: _Promise, start: float, begin: float, end: float) -> float | None:
        """When this window has to be done: a share of what is left of the deadline, by its share of what is left."""
        if promise.target_rtf is not None:
            return start + promise.target_rtf * (end - begin)
        if promise.deadline is None:
            return None
        share = min(1.0, (end - begin) / max(promise.seconds - begin, 1e-6)) if promise.seconds > end + 0.5 else 1.0
        return start + (promise.deadline - start) * share

    def _surely(self, window: _Window, confidence: float) -> _Run:
        """A shallow step, and the one that keeps the promise where the shallow one is not sure enough."""
        first = window.promise.first
        step = self.controller.shallowest if first is None else self.controller.step_for(first)
        name = "shallowest" if first is None else f"depth {step.depth}"
        run = self._timed(window, step.subset, f"{name} first")
        if run.confidence >= confidence:
            return replace(run, reason=f"{name}, and sure of it ({run.confidence:.3f})")
        plan = self._plan(window, after=step)
        if plan.step.subset == step.subset or (window.promise.subset is None and plan.step.depth <= step.depth):
            return replace(run, reason=f"{name}; not sure ({run.confidence:.3f}), but {plan.reason}")
        second = self._kept(window, plan, done=run)
        return replace(second, reason=f"{second.reason}, as the {name} was not sure ({run.confidence:.3f})")

    def _plan(self, window: _Window, after: DepthOption | None = None) -> Plan:
        """What keeps the promise; `after` has run already."""
        promise = window.promise
        if promise.subset is not None:
            return Plan(self.controller.step_for(promise.subset), f"depth {promise.subset.depth} was asked for")
        if promise.max_cpu is not None:
            return self.controller.choose_by_cpu(window.seconds, promise.max_cpu, window.counted, after)
        if window.finish is None:
            return Plan(self.controller.step_for(BlockSubset.full(self.n_blocks)), "all blocks")
        now = time.perf_counter()
        return self.controller.choose(window.seconds, 1000.0 * (window.finish - now), now, after is not None)

    def _kept(self, window: _Window, plan: Plan | None = None, done: _Run | None = None) -> _Run:
        """Run the plan; should it take so long that the promise would be broken, stop it and run the shallowest.

        With `done`, a result that is there already, the time for that is not needed.
        """
        plan = plan or self._plan(window)
        if window.finish is None or plan.rescue_ms is None:
            return self._timed(window, plan.step.subset, plan.reason)
        now = time.perf_counter()
        rescue_at = window.finish if done is not None else now + plan.rescue_ms / 1000.0
        cancel = Cancel()
        with _WATCHDOG.at(rescue_at, cancel):
            try:
                return self._timed(window, plan.step.subset, plan.reason, cancel)
            except Cancelled:
                taken = 1000.0 * (time.perf_counter() - now)
        self.controller.observe_network(plan.step.depth, window.seconds, taken, time.perf_counter(), unfinished=True)
        late = f"depth {plan.step.depth} was stopped after {taken:.0f} ms"
        if done is not None:
            name = "shallowest" if done.subset == self.controller.shallowest.subset else f"depth {done.subset.depth}"
            return replace(done, reason=f"{name}: {late}")
        return self._timed(window, self.controller.shallowest.subset, f"shallowest: {late}")

    def _timed(self, window: _Window, subset: BlockSubset, reason: str, cancel: Cancel | None = None) -> _Run:
        start = time.perf_counter()
        run = self.run(window.inputs, subset, reason, cancel)
        now = time.perf_counter()
        self.controller.observe_network(subset.depth, window.seconds, 1000.0 * (now - start), now)
        return run

    def run(
        self, inputs: NDArray[np.float32], subset: BlockSubset, reason: str = "", cancel: Cancel | None = None
    ) -> _Run:
        """One pass over features (T, F) or samples (S,) of one utterance, best tokens and confidence included."""
        logp_BTV, _ = self.session.posteriors(inputs[None], np.array([len(inputs)]), subset, cancel)
        frame_ids = logp_BTV[0].argmax(axis=-1)
        return _Run(frame_ids.tolist(), confidence_of(logp_BTV[0], frame_ids), subset, reason)

    # ------------------------------------------------------------------------------------------------ this device

    @property
    def controller(self) -> DepthController:
        """Knows what each depth costs here."""
        return self._controller or self._make_controller()

    def _make_controller(self) -> DepthController:
        """From the profile, and warm, so that the first request does not wait; else from a short measurement now."""
        with self._making:
            if self._controller is None:
                table = self._profile.table(self.threads) if self._profile else None
                if table is None:
                    _log.info("%s: no profile for %d threads here; measuring for a moment", self.folder, self.threads)
                    table = self._measure_costs()
                else:
                    self.warm_up(1.0)
                self._controller = DepthController(table, worthwhile(self.ladder, self.n_blocks))
            return self._controller

    def _measure_costs(self) -> CostTable:
        """Measure for half a second, for want of a profile: shallowest and full depth, two lengths, twice each."""
        subsets = {depth: self.subset(depth) for depth in sorted({1, self.n_blocks})}
        return measure_table(self.features, self.run, subsets, self.threads, (1.0, 5.0), 0.5, repeats=7).costs()


def _fixed(subset: Blocks) -> BlockSubset:
    """Return `subset`; the graph takes gates, and has no selector that a number of blocks could be left to."""
    if not isinstance(subset, BlockSubset):
        raise UserError("an exported model does not choose its blocks itself; give a subset")
    return subset


def _seconds_of(audio: Audio) -> float:
    return probe(audio).seconds if isinstance(audio, str | Path) else np.size(audio) / SAMPLE_RATE


def confidence_of(logp_TV: NDArray[np.float32], frame_ids: NDArray[np.int64]) -> float:
    """Mean posterior of the best token over the frames where it is not the blank; 1 where there is no such frame."""
    best_T = logp_TV[np.arange(len(frame_ids)), frame_ids][frame_ids != BLANK]
    return float(np.exp(best_T).mean()) if len(best_T) else 1.0
