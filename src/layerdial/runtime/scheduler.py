"""One window of audio under the constraint of a request: the choice of blocks, and what is done when they are late.

Times are of `time.perf_counter()`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from layerdial.runtime.controller import DepthController, Plan
from layerdial.runtime.session import Cancel, Cancelled
from layerdial.runtime.watchdog import Watchdog
from layerdial.subset import BlockSubset

if TYPE_CHECKING:
    from layerdial.text.token_rules import Written

_WATCHDOG = Watchdog()


@dataclass(frozen=True)
class Constraint:
    """The constraint of a request, as times and blocks; at most one of the first four.

    With `confidence`, `first` runs before the rest (default: the shallowest). `seconds` is the length of the audio. Of
    a piece of it, `begins` is where that begins, and `pause` the seconds before it that nobody computes. `reason` is
    why there is a `subset`.
    """

    subset: BlockSubset | None = None
    deadline: float | None = None
    target_rtf: float | None = None
    max_cpu: float | None = None
    confidence: float | None = None
    first: BlockSubset | None = None
    seconds: float = 0.0
    begins: float = 0.0
    pause: float = 0.0
    reason: str = ""

    def window_deadline(self, start: float, begin: float, end: float) -> float | None:
        """Return when the window from `begin` to `end` seconds, started at `start`, must be done; None for any time.

        A window gets a share of the time left to a deadline: its share of the audio that is left, with the pause
        before it.
        """
        begin, end = self.begins + begin - self.pause, self.begins + end
        if self.target_rtf is not None:
            return start + self.target_rtf * (end - begin)
        if self.deadline is None:
            return None
        share = min(1.0, (end - begin) / max(self.seconds - begin, 1e-6)) if self.seconds > end + 0.5 else 1.0
        return start + (self.deadline - start) * share


@dataclass(frozen=True)
class TimedWindow:
    """One stretch of audio: its features, its seconds with and without context, and its deadline."""

    inputs: NDArray[np.float32]
    seconds: float
    counted: float
    deadline: float | None


@dataclass(frozen=True)
class PassResult:
    """The result of one pass: the best token of each frame, and the mean posterior of those that are not blank.

    A decoder's is what it has `written`, and the geometric mean of the posteriors of its tokens; before it has run, its
    `search`. `logp_TV` are a CTC model's log-probabilities. `ran` is false where the audio is silent and nothing was
    computed.
    """

    frame_ids: list[int]
    confidence: float
    subset: BlockSubset
    reason: str = ""
    written: Written | None = None
    search: Search | None = None
    ran: bool = True
    logp_TV: NDArray[np.float32] | None = None

    @property
    def loops(self) -> bool:
        """Whether a text was cut, because it repeated itself or was longer than a text can be."""
        return self.written is not None and self.written.looped


class Search(Protocol):
    """A decoder in front of one encoded window. Its methods raise `Cancelled` when `cancel` was called in the meantime.

    `rows` is how many transcripts it follows at a time; `is_measured` says whether its steps are those of the profile.
    """

    @property
    def rows(self) -> int: ...

    @property
    def is_measured(self) -> bool: ...

    def first(self, cancel: Cancel | None = None) -> Written:
        """Return what the search that was asked for finds."""
        ...

    def again(self, found: Written, cancel: Cancel | None = None) -> Written:
        """Return what other searches find where the first one loops."""
        ...


RunPass = Callable[[NDArray[np.float32], BlockSubset, Cancel | None], PassResult]


class Timer(Protocol):
    """What calls an action unless a block of code is left before its time; see `Watchdog`."""

    def at(self, when: float, action: Callable[[], object]) -> AbstractContextManager[None]: ...


class Scheduler:
    """The runner of windows within their constraints, which reports measured times to the controller.

    `run` is what depends on depth: a CTC network, or an encoder, behind which the decoder follows `rows` transcripts at
    a time. `clock` and `timer` are those of this process, unless a replay brings its own. `cancel` stops everything
    that has no time of its own to be stopped at: `run` raises `Cancelled` then.
    """

    def __init__(
        self,
        run: RunPass,
        controller: DepthController,
        n_blocks: int,
        clock: Callable[[], float] | None = None,
        timer: Timer = _WATCHDOG,
        rows: int = 1,
        cancel: Cancel | None = None,
    ) -> None:
        self._run = run
        self._controller = controller
        self._n_blocks = n_blocks
        self._clock = clock or (lambda: time.perf_counter())
        self._timer = timer
        self._rows = rows
        self._cancel = cancel

    def run(self, window: TimedWindow, constraint: Constraint) -> PassResult:
        """Return the result of the blocks that the constraint allows; `reason` explains the choice."""
        if constraint.confidence is not None:
            return self._run_cascade(window, constraint, constraint.confidence)
        plan = self._plan(window, constraint)
        done = self._run_plan(window, plan)
        if plan.first:
            done = self._run_deeper(window, done)
        return self._finished(window, constraint, done)

    def _run_deeper(self, window: TimedWindow, done: PassResult) -> PassResult:
        """Run the deepest option that the time left allows, and return its result, or else `done`."""
        plan = self._plan(window, Constraint(), done)
        return done if plan.option.subset == done.subset else self._run_plan(window, plan, done)

    def _run_cascade(self, window: TimedWindow, constraint: Constraint, confidence: float) -> PassResult:
        """Run a shallow depth; where its confidence is too low, run also the depth that the constraint allows."""
        first = constraint.first
        option = self._controller.shallowest if first is None else self._controller.option_for(first)
        name = "shallowest" if first is None else f"depth {option.depth}"
        done = self._written(window, self._run_timed(window, option.subset, f"{name} first"))
        if done.confidence >= confidence and not done.loops:
            return replace(done, reason=f"{name}, and sure of it ({done.confidence:.3f})")
        plan = self._plan(window, constraint, done)
        no_deeper = constraint.subset is None and plan.option.depth <= option.depth
        if plan.option.subset == option.subset or no_deeper:
            kept = replace(done, reason=f"{name}; not sure ({done.confidence:.3f}), but {plan.reason}")
            return self._finished(window, constraint, kept)
        second = self._run_plan(window, plan, done)
        found = replace(second, reason=f"{second.reason}, as the {name} was not sure ({done.confidence:.3f})")
        return self._finished(window, constraint, found)

    def _plan(self, window: TimedWindow, constraint: Constraint, done: PassResult | None = None) -> Plan:
        """Return a plan that meets the constraint; `done` has run already."""
        after = None if done is None else self._controller.option_for(done.subset)
        steps = self._steps(window, done)
        if constraint.subset is not None:
            option = self._controller.option_for(constraint.subset)
            return Plan(option, constraint.reason or f"depth {constraint.subset.depth} was asked for")
        if constraint.max_cpu is not None:
            return self._controller.choose_by_cpu(window.seconds, constraint.max_cpu, window.counted, after, steps)
        if window.deadline is None:
            return Plan(self._controller.option_for(BlockSubset.full(self._n_blocks)), "all blocks")
        now = self._clock()
        left_ms = 1000.0 * (window.deadline - now)
        if after is not None:
            writes = done is not None and done.written is not None
            return self._controller.choose_after(after, window.seconds, left_ms, now, steps, writes)
        return self._controller.choose(window.seconds, left_ms, now, steps)

    def _steps(self, window: TimedWindow, done: PassResult | None) -> float:
        """Return how often the decoder will run for a window, as often as for the text that it already has."""
        if done is not None and done.written is not None:
            return float(self._rows * done.written.n_steps)
        return self._rows * self._controller.expected_steps(window.seconds)

    def _run_plan(self, window: TimedWindow, plan: Plan, done: PassResult | None = None) -> PassResult:
        """Run the plan. If it would miss the deadline, stop it and return `done`, or else run the shallowest depth."""
        if plan.stop_ms is None:
            return self._run_parts(window, plan)
        now = self._clock()
        cancel = Cancel()
        with self._timer.at(now + plan.stop_ms / 1000.0, cancel):
            try:
                return self._run_parts(window, plan, cancel)
            except Cancelled:
                taken = 1000.0 * (self._clock() - now)
        depth = plan.option.depth
        late = f"depth {depth} was stopped after {taken:.0f} ms"
        if done is None:
            return self._run_timed(window, self._controller.shallowest.subset, f"shallowest: {late}")
        name = "shallowest" if done.subset == self._controller.shallowest.subset else f"depth {done.subset.depth}"
        return replace(done, reason=f"{name}: {late}")

    def _run_parts(self, window: TimedWindow, plan: Plan, cancel: Cancel | None = None) -> PassResult:
        result = self._run_timed(window, plan.option.subset, plan.reason, cancel)
        return self._written(window, result, cancel) if plan.writes else result

    def _run_timed(
        self, window: TimedWindow, subset: BlockSubset, reason: str, cancel: Cancel | None = None
    ) -> PassResult:
        """Run what depends on depth, and tell the controller how long it took, or after what time it was stopped."""
        start = self._clock()
        try:
            result = self._run(window.inputs, subset, cancel or self._cancel)
        except Cancelled:
            now = self._clock()
            self._controller.observe_network(subset.depth, window.seconds, 1000.0 * (now - start), now, unfinished=True)
            raise
        now = self._clock()
        if result.ran:
            self._controller.observe_network(subset.depth, window.seconds, 1000.0 * (now - start), now)
        return replace(result, reason=reason)

    def _written(self, window: TimedWindow, done: PassResult, cancel: Cancel | None = None) -> PassResult:
        """Return a result with the text that the decoder writes, if the model has one.

        Without another text at hand it is written to its end, however late: a part of it would be wrong.
        """
        if done.search is None or done.written is not None:
            return done
        start = self._clock()
        written = done.search.first(cancel or self._cancel)
        now = self._clock()
        if done.search.is_measured:
            self._controller.observe_decoding(window.seconds, written.n_steps, 1000.0 * (now - start), now)
            if not written.looped:
                self._controller.observe_text(window.seconds, written.n_steps)
        return replace(done, written=written, confidence=math.exp(written.mean_logp))

    def _finished(self, window: TimedWindow, constraint: Constraint, done: PassResult) -> PassResult:
        """Return a result with its text, which other searches replace in the time left where it repeats itself."""
        done = self._written(window, done)
        if not done.loops:
            return done
        found = self._other_text(window, constraint, done)
        if found is not None and not found.looped:
            return replace(done, written=found, confidence=math.exp(found.mean_logp))
        why = "there was no time for another search" if found is None else "no other search did better"
        return replace(done, reason=f"{done.reason}; the text repeated itself and was cut: {why}")

    def _other_text(self, window: TimedWindow, constraint: Constraint, done: PassResult) -> Written | None:
        """Return what other searches find within the constraint; none where there is no time for them."""
        assert done.search is not None and done.written is not None
        if constraint.max_cpu is not None:
            return None
        if window.deadline is None:
            return done.search.again(done.written, self._cancel)
        now, cancel = self._clock(), Cancel()
        left_ms = self._controller.stop_ms(1000.0 * (window.deadline - now), now)
        if left_ms <= 0:
            return None
        with self._timer.at(now + left_ms / 1000.0, cancel):
            try:
                return done.search.again(done.written, cancel)
            except Cancelled:
                return None
