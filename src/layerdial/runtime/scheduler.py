"""One window of audio under the constraint of a request: the choice of blocks, and what is done when they are late.

Times are of `time.perf_counter()`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from layerdial.runtime.controller import DepthController, DepthOption, Plan
from layerdial.runtime.session import Cancel, Cancelled
from layerdial.runtime.watchdog import Watchdog
from layerdial.subset import BlockSubset

if TYPE_CHECKING:
    from layerdial.text.token_rules import Written

_WATCHDOG = Watchdog()


@dataclass(frozen=True)
class Constraint:
    """The constraint of a request, as times and blocks; at most one of the first four.

    With `confidence`, `first` runs before the rest (default: the shallowest). `seconds` is the length of the audio.
    """

    subset: BlockSubset | None = None
    deadline: float | None = None
    target_rtf: float | None = None
    max_cpu: float | None = None
    confidence: float | None = None
    first: BlockSubset | None = None
    seconds: float = 0.0

    def window_deadline(self, start: float, begin: float, end: float) -> float | None:
        """Return when the window from `begin` to `end` seconds, started at `start`, must be done; None for any time.

        A window gets a share of the time left to a deadline: its share of the audio that is left.
        """
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

    A decoder's is what it has written, and the geometric mean of the posteriors of its tokens.
    """

    frame_ids: list[int]
    confidence: float
    subset: BlockSubset
    reason: str = ""
    written: Written | None = None


RunPass = Callable[[NDArray[np.float32], BlockSubset, Cancel | None], PassResult]


class Timer(Protocol):
    """What calls an action unless a block of code is left before its time; see `Watchdog`."""

    def at(self, when: float, action: Callable[[], object]) -> AbstractContextManager[None]: ...


class Scheduler:
    """The runner of windows within their constraints, which reports measured times to the controller.

    `clock` and `timer` are those of this process, unless a replay brings its own.
    """

    def __init__(
        self,
        run: RunPass,
        controller: DepthController,
        n_blocks: int,
        clock: Callable[[], float] | None = None,
        timer: Timer = _WATCHDOG,
    ) -> None:
        self._run = run
        self._controller = controller
        self._n_blocks = n_blocks
        self._clock = clock or (lambda: time.perf_counter())
        self._timer = timer

    def run(self, window: TimedWindow, constraint: Constraint) -> PassResult:
        """Return the result of the blocks that the constraint allows; `reason` explains the choice."""
        if constraint.confidence is not None:
            return self._run_cascade(window, constraint, constraint.confidence)
        plan = self._plan(window, constraint)
        done = self._run_plan(window, plan)
        return self._run_deeper(window, done) if plan.first else done

    def _run_deeper(self, window: TimedWindow, done: PassResult) -> PassResult:
        """Run the deepest option that the time left allows, and return its result, or else `done`."""
        plan = self._plan_after(window, self._controller.option_for(done.subset))
        return done if plan.option.subset == done.subset else self._run_plan(window, plan, done)

    def _run_cascade(self, window: TimedWindow, constraint: Constraint, confidence: float) -> PassResult:
        """Run a shallow depth; where its confidence is too low, run also the depth that the constraint allows."""
        first = constraint.first
        option = self._controller.shallowest if first is None else self._controller.option_for(first)
        name = "shallowest" if first is None else f"depth {option.depth}"
        done = self._run_timed(window, option.subset, f"{name} first")
        if done.confidence >= confidence:
            return replace(done, reason=f"{name}, and sure of it ({done.confidence:.3f})")
        plan = self._plan(window, constraint, after=option)
        no_deeper = constraint.subset is None and plan.option.depth <= option.depth
        if plan.option.subset == option.subset or no_deeper:
            return replace(done, reason=f"{name}; not sure ({done.confidence:.3f}), but {plan.reason}")
        second = self._run_plan(window, plan, done)
        return replace(second, reason=f"{second.reason}, as the {name} was not sure ({done.confidence:.3f})")

    def _plan(self, window: TimedWindow, constraint: Constraint, after: DepthOption | None = None) -> Plan:
        """Return a plan that meets the constraint; `after` has run already."""
        if constraint.subset is not None:
            option = self._controller.option_for(constraint.subset)
            return Plan(option, f"depth {constraint.subset.depth} was asked for")
        if constraint.max_cpu is not None:
            return self._controller.choose_by_cpu(window.seconds, constraint.max_cpu, window.counted, after)
        if window.deadline is None:
            return Plan(self._controller.option_for(BlockSubset.full(self._n_blocks)), "all blocks")
        if after is not None:
            return self._plan_after(window, after)
        now = self._clock()
        return self._controller.choose(window.seconds, 1000.0 * (window.deadline - now), now)

    def _plan_after(self, window: TimedWindow, after: DepthOption) -> Plan:
        assert window.deadline is not None
        now = self._clock()
        return self._controller.choose_after(after, window.seconds, 1000.0 * (window.deadline - now), now)

    def _run_plan(self, window: TimedWindow, plan: Plan, done: PassResult | None = None) -> PassResult:
        """Run the plan. If it would miss the deadline, stop it and return `done`, or else run the shallowest depth."""
        if plan.stop_ms is None:
            return self._run_timed(window, plan.option.subset, plan.reason)
        now = self._clock()
        cancel = Cancel()
        with self._timer.at(now + plan.stop_ms / 1000.0, cancel):
            try:
                return self._run_timed(window, plan.option.subset, plan.reason, cancel)
            except Cancelled:
                taken = 1000.0 * (self._clock() - now)
        depth = plan.option.depth
        self._controller.observe_network(depth, window.seconds, taken, self._clock(), unfinished=True)
        late = f"depth {depth} was stopped after {taken:.0f} ms"
        if done is None:
            return self._run_timed(window, self._controller.shallowest.subset, f"shallowest: {late}")
        name = "shallowest" if done.subset == self._controller.shallowest.subset else f"depth {done.subset.depth}"
        return replace(done, reason=f"{name}: {late}")

    def _run_timed(
        self, window: TimedWindow, subset: BlockSubset, reason: str, cancel: Cancel | None = None
    ) -> PassResult:
        start = self._clock()
        result = self._run(window.inputs, subset, cancel)
        now = self._clock()
        self._controller.observe_network(subset.depth, window.seconds, 1000.0 * (now - start), now)
        return replace(result, reason=reason)
