"""Transcribing with an exported model, at a depth of one's choice or the deepest that keeps a promise."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layerdial.audio import probe
from layerdial.errors import UserError
from layerdial.evaluate import FeatureBatch, collate_features
from layerdial.features import SAMPLE_RATE, Features
from layerdial.ladder import Ladder, choose_subset
from layerdial.runtime.budget import DepthController, Plan, worthwhile
from layerdial.runtime.manifest import Cost, Manifest, read_features
from layerdial.runtime.profile import Profile, quick_profile
from layerdial.runtime.session import Cancel, Cancelled, Session, default_threads
from layerdial.runtime.watchdog import Watchdog
from layerdial.subset import BlockSubset
from layerdial.text import BLANK, PieceTable, greedy_ctc, read_tokens
from layerdial.transcript import Chunk, Heard, Transcript, recognise_windows

Audio = str | Path | NDArray[np.float32]


@dataclass(frozen=True)
class Promise:
    """What a request asked for; at most one of the first four. Times are of `time.perf_counter()`."""

    subset: BlockSubset | None = None
    deadline: float | None = None
    target_rtf: float | None = None
    max_cpu: float | None = None
    confidence: float | None = None
    seconds: float = 0.0  # of the whole audio, for a share of the deadline


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
    promise: Promise
    finish: float | None


class Recognizer:
    """An exported folder, loaded. One may serve any number of threads at once; no more run than there are CPUs.

    `threads` are those of one request (default: as many as the process may use, four at most). Raises `UserError` for
    a folder that is no export, is damaged, or whose parts do not belong together.
    """

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise UserError(f"threads is {threads}; give 1 or more")
        folder = Path(folder)
        self.session = Session(folder, threads or default_threads())
        self.manifest: Manifest = self.session.manifest
        self.folder = folder
        self.name = str(folder)
        self.features: Features = read_features(self.manifest.features)
        self.ladder = Ladder.beside(folder, self.n_blocks)
        self.tokenizer = self._read_tokens(folder)
        self._profile = Profile.beside(folder, self.manifest.model_id)
        self._controller: DepthController | None = None
        self._making = threading.Lock()
        self._slots = threading.BoundedSemaphore(max(2, default_threads()))
        self._watchdog = Watchdog()

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
        if depth is None:
            return BlockSubset.full(self.n_blocks)
        return choose_subset(self.ladder, self.n_blocks, depth)

    def cost(self, subset: BlockSubset) -> Cost:
        """Parameters in use and multiply-accumulates a second of audio, as counted when the model was exported."""
        return self.manifest.costs.of(subset)

    def warm_up(self, seconds: float = 10.0) -> None:
        """Run every block once on so much silence, so that the first request is not the one that waits for memory."""
        self._run(self.features(np.zeros(round(seconds * SAMPLE_RATE), np.float32)), BlockSubset.full(self.n_blocks))

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
    ) -> Transcript:
        """What is said in a file, or in an array of samples (S,) at 16 kHz within [-1, 1].

        `depth` picks the ladder's subset, `subset` is taken as it is. Or the deepest is picked that keeps a promise:
        to be done `deadline_ms` from now, in `target_rtf` seconds a second of audio, or with `max_cpu` seconds of
        computing a second of audio; if nothing keeps it, the shallowest runs, and the result's `reason` says so. With
        none of them all blocks run. With `confidence` (0 to 1) the shallowest runs first, and the depth that would
        have run only where the mean posterior of the frames that say something is below it.

        Raises `UserError` for a file that is not audio or empty, a depth that the model does not have, samples that
        are not finite, and promises that make no sense.
        """
        if not (deadline_ms is target_rtf is max_cpu is confidence is None):
            self.controller  # noqa: B018 - measures, for want of a profile; that is not part of the request
        start = time.perf_counter()
        promise = self._promise(audio, depth, subset, deadline_ms, target_rtf, max_cpu, confidence, start)
        with self._slots:
            ids, chunks, seconds = recognise_windows(
                audio, self.features, lambda samples, begin, end: self._recognise(samples, begin, end, promise)
            )
        text = self.tokenizer.decode(greedy_ctc(ids))
        deepest = max(chunks, key=lambda chunk: chunk.depth)
        taken = time.perf_counter() - start
        return Transcript(text, deepest.subset, seconds, taken / seconds, deepest.reason, chunks)

    def transcribe_batch(
        self, audios: Sequence[NDArray[np.float32]], depth: int | None = None, subset: BlockSubset | None = None
    ) -> list[str]:
        """Texts of several arrays of samples (S,) of at most 30 s, run as one zero-padded batch."""
        from layerdial.windows import WINDOW_SECONDS, windows

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

    def recognize(self, batch: FeatureBatch, subset: BlockSubset) -> list[str]:
        """Text of each utterance of a batch."""
        logp_BTV, frames_B = self.session.posteriors(batch.inputs, batch.lengths_B, subset)
        best_BT = logp_BTV.argmax(axis=-1).tolist()
        return [
            self.tokenizer.decode(greedy_ctc(best_T[:length]))
            for best_T, length in zip(best_BT, frames_B.tolist(), strict=True)
        ]

    def _promise(
        self,
        audio: Audio,
        depth: int | None,
        subset: BlockSubset | None,
        deadline_ms: float | None,
        target_rtf: float | None,
        max_cpu: float | None,
        confidence: float | None,
        start: float,
    ) -> Promise:
        given = {
            "depth": depth,
            "subset": subset,
            "deadline_ms": deadline_ms,
            "target_rtf": target_rtf,
            "max_cpu": max_cpu,
        }
        names = [name for name, value in given.items() if value is not None]
        if len(names) > 1:
            raise UserError(f"give one of {', '.join(names)}, not {len(names)}")
        for name, value in (("deadline_ms", deadline_ms), ("target_rtf", target_rtf), ("max_cpu", max_cpu)):
            if value is not None and not value > 0:
                raise UserError(f"{name} is {value}; give a number above 0")
        if confidence is not None and not 0 <= confidence <= 1:
            raise UserError(f"confidence is {confidence}; give a number from 0 to 1")
        deadline = None if deadline_ms is None else start + deadline_ms / 1000.0
        seconds = 0.0
        if deadline is not None:
            seconds = probe(audio).seconds if isinstance(audio, str | Path) else np.size(audio) / SAMPLE_RATE
        if depth is not None or (not names and confidence is None):
            subset = self.subset(depth)
        return Promise(subset, deadline, target_rtf, max_cpu, confidence, seconds)

    # ------------------------------------------------------------------------------------------------- one window

    def _recognise(self, samples: NDArray[np.float32], begin: float, end: float, promise: Promise) -> Heard:
        start = time.perf_counter()
        inputs = self.features(samples)
        if promise.subset is not None and promise.confidence is None:
            run = self._run(inputs, promise.subset)
        else:
            now = time.perf_counter()
            seconds = len(samples) / SAMPLE_RATE
            self.controller.observe_features(seconds, 1000.0 * (now - start), now)
            window = _Window(inputs, seconds, end - begin, promise, self._finish(promise, start, begin, end))
            run = self._kept(window) if promise.confidence is None else self._surely(window, promise.confidence)
        return Heard(run.frame_ids, Chunk(begin, end, run.subset, run.reason, run.confidence))

    @staticmethod
    def _finish(promise: Promise, start: float, begin: float, end: float) -> float | None:
        """When this window has to be done: a share of what is left of the deadline, by its share of what is left."""
        if promise.target_rtf is not None:
            return start + promise.target_rtf * (end - begin)
        if promise.deadline is None:
            return None
        share = min(1.0, (end - begin) / max(promise.seconds - begin, 1e-6)) if promise.seconds > end + 0.5 else 1.0
        return start + (promise.deadline - start) * share

    def _surely(self, window: _Window, confidence: float) -> _Run:
        """The shallowest step, and the one that keeps the promise where the shallowest is not sure enough."""
        shallowest = self.controller.shallowest
        first = self._timed(window, shallowest.subset, "shallowest first")
        if first.confidence >= confidence:
            return replace(first, reason=f"shallowest, and sure of it ({first.confidence:.3f})")
        plan = self._plan(window, after_shallowest=True)
        if plan.step.depth <= shallowest.depth:
            return replace(first, reason=f"shallowest; not sure ({first.confidence:.3f}), but {plan.reason}")
        second = self._kept(window, plan, done=first)
        return replace(second, reason=f"{second.reason}, as the shallowest was not sure ({first.confidence:.3f})")

    def _plan(self, window: _Window, after_shallowest: bool = False) -> Plan:
        promise = window.promise
        if promise.subset is not None:
            return Plan(self.controller.step_for(promise.subset), f"depth {promise.subset.depth} was asked for")
        if promise.max_cpu is not None:
            return self.controller.choose_by_cpu(window.seconds, promise.max_cpu, window.counted, after_shallowest)
        if window.finish is None:
            return Plan(self.controller.step_for(BlockSubset.full(self.n_blocks)), "all blocks")
        now = time.perf_counter()
        return self.controller.choose(window.seconds, 1000.0 * (window.finish - now), now)

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
        with self._watchdog.at(rescue_at, cancel):
            try:
                return self._timed(window, plan.step.subset, plan.reason, cancel)
            except Cancelled:
                taken = 1000.0 * (time.perf_counter() - now)
        self.controller.observe_network(plan.step.depth, window.seconds, taken, time.perf_counter(), unfinished=True)
        late = f"depth {plan.step.depth} was stopped after {taken:.0f} ms"
        if done is not None:
            return replace(done, reason=f"shallowest: {late}")
        return self._timed(window, self.controller.shallowest.subset, f"shallowest: {late}")

    def _timed(self, window: _Window, subset: BlockSubset, reason: str, cancel: Cancel | None = None) -> _Run:
        start = time.perf_counter()
        run = self._run(window.inputs, subset, reason, cancel)
        now = time.perf_counter()
        self.controller.observe_network(subset.depth, window.seconds, 1000.0 * (now - start), now)
        return run

    def _run(
        self, inputs: NDArray[np.float32], subset: BlockSubset, reason: str = "", cancel: Cancel | None = None
    ) -> _Run:
        logp_BTV, _ = self.session.posteriors(inputs[None], np.array([len(inputs)]), subset, cancel)
        frame_ids = logp_BTV[0].argmax(axis=-1)
        return _Run(frame_ids.tolist(), confidence_of(logp_BTV[0], frame_ids), subset, reason)

    # ------------------------------------------------------------------------------------------------ this device

    @property
    def controller(self) -> DepthController:
        """Knows what each depth costs here: from `layerdial profile`, else from a short measurement now."""
        if self._controller is None:
            with self._making:
                if self._controller is None:
                    table = self._profile.table(self.threads) if self._profile else None
                    steps = worthwhile(self.ladder, self.n_blocks)
                    self._controller = DepthController(table or quick_profile(self), steps)
        return self._controller


def confidence_of(logp_TV: NDArray[np.float32], frame_ids: NDArray[np.int64]) -> float:
    """Mean posterior of the best token over the frames where it is not the blank; 1 where there is no such frame."""
    best_T = logp_TV[np.arange(len(frame_ids)), frame_ids][frame_ids != BLANK]
    return float(np.exp(best_T).mean()) if len(best_T) else 1.0
