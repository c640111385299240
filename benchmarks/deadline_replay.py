"""Deadlines on recorded load, on a simulated clock: the controller beside fixed depths and beside an oracle.

    python benchmarks/deadline_replay.py benchmarks/traces/*.npz

Each request of a trace (see `load_trace.py`) is done by the runtime's own scheduler and controller; only the clock, the
watchdog and the network are simulated. The oracle runs the deepest depth that would have kept the deadline.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from layerdial.runtime.controller import CostTable, DepthController, DepthOption
from layerdial.runtime.scheduler import Constraint, PassResult, Scheduler, TimedWindow
from layerdial.runtime.session import Cancel, Cancelled
from layerdial.subset import BlockSubset
from load_trace import Trace

RATIOS = (1.5, 2.5)  # deadline over the time of all blocks on the idle device
SECONDS = 10.0
DECODING_MS = 0.3
NOTICE_MS = 0.1  # of work, after which a network that is stopped returns
# milliseconds of the demo's model, size xs, for 10 s of audio on one thread of the machine that recorded the traces
FEATURES_MS, FRONT_END_MS, BLOCK_MS = 2.6, 0.45, 1.03


@dataclass(frozen=True)
class Model:
    """The costs of a network on the idle device; `scale` 1 is the demo's model."""

    n_blocks: int = 8
    scale: float = 1.0

    @property
    def costs(self) -> CostTable:
        depths = range(1, self.n_blocks + 1)
        network = {depth: (self.scale * (FRONT_END_MS + BLOCK_MS * depth),) for depth in depths}
        return CostTable((SECONDS,), (self.scale * FEATURES_MS,), network)

    @property
    def options(self) -> tuple[DepthOption, ...]:
        n = self.n_blocks
        return tuple(DepthOption(depth, BlockSubset.prefix(n, depth), 1 / depth) for depth in range(1, n + 1))

    @property
    def full_ms(self) -> float:
        """Milliseconds of a request with all blocks on the idle device."""
        return self.costs.total(self.n_blocks, SECONDS) + DECODING_MS


class ReplayedModel(Protocol):
    """What a replay knows of a model."""

    @property
    def n_blocks(self) -> int: ...

    @property
    def costs(self) -> CostTable: ...

    @property
    def options(self) -> tuple[DepthOption, ...]: ...


class Request:
    """The time of one request of a trace: how long its work takes, from its start."""

    def __init__(self, trace: Trace, i: int) -> None:
        wall = trace.wall_ms[i]
        self.start_s, self.late_ms = float(trace.start_s[i]), float(trace.timer_late_ms[i])
        self._work = trace.unit_ms * np.arange(len(wall) + 1)
        self._wall = np.concatenate([[0.0], wall])

    def wall(self, work_ms: float) -> float:
        """Return after how many milliseconds so much work is done; beyond the trace it goes on at its mean pace."""
        beyond = max(0.0, work_ms - self._work[-1]) * max(1.0, self._wall[-1] / self._work[-1])
        return float(np.interp(work_ms, self._work, self._wall)) + float(beyond)

    def work(self, wall_ms: float) -> float:
        """Return how much work is done after so many milliseconds."""
        return float(np.interp(wall_ms, self._wall, self._work))


class Device:
    """A device on which requests of a trace run, with a clock, a watchdog and a network that follow the trace."""

    def __init__(self, model: ReplayedModel, controller: DepthController | None = None) -> None:
        self.model, self.costs = model, model.costs
        self.controller = controller or DepthController(self.costs, model.options)
        self._scheduler = Scheduler(self._run, self.controller, model.n_blocks, clock=lambda: self.now_s, timer=self)
        self._due_s = float("inf")

    @property
    def now_s(self) -> float:
        return self._request.start_s + self._request.wall(self._done_ms) / 1000.0

    @contextlib.contextmanager
    def at(self, when: float, action: Callable[[], object]) -> Iterator[None]:
        self._due_s = when
        yield

    def serve(self, request: Request, deadline_ms: float, seconds: float = SECONDS) -> tuple[int, float]:
        """Return the depth and the milliseconds of a request, as `Recognizer` does it."""
        self._request, self._done_ms, self._seconds = request, 0.0, seconds
        self._done_ms += self.costs.features(seconds)
        self.controller.observe_features(seconds, 1000.0 * (self.now_s - request.start_s), self.now_s)
        window = TimedWindow(np.zeros(0, np.float32), seconds, seconds, request.start_s + deadline_ms / 1000.0)
        result = self._scheduler.run(window, Constraint(deadline=window.deadline))
        return result.subset.depth, request.wall(self._done_ms + DECODING_MS)

    def _run(self, inputs: NDArray[np.float32], subset: BlockSubset, cancel: Cancel | None = None) -> PassResult:
        self.spend(self.costs.network(subset.depth, self._seconds), cancel)
        return PassResult([], 1.0, subset)

    def spend(self, work_ms: float, cancel: Cancel | None) -> None:
        """Work for so many idle milliseconds, or until it is stopped."""
        if cancel is not None:
            stop_ms = 1000.0 * (self._due_s - self._request.start_s) + self._request.late_ms
            stopped_ms = max(self._request.work(stop_ms), self._done_ms) + NOTICE_MS
            if stopped_ms < self._done_ms + work_ms:
                self._done_ms = stopped_ms
                raise Cancelled
        self._done_ms += work_ms


@dataclass(frozen=True)
class Outcome:
    """Depths and whether the deadline was kept, for each request of a trace."""

    depths: NDArray[np.int64]
    kept: NDArray[np.bool_]

    @property
    def share(self) -> float:
        return float(self.kept.mean())

    @property
    def depth(self) -> float:
        return float(self.depths.mean())


def replay(trace: Trace, model: Model, ratio: float, controller: DepthController | None = None) -> Outcome:
    """Serve the requests of a trace with the controller, each within `ratio` times the idle time of all blocks."""
    device, deadline_ms = Device(model, controller), ratio * model.full_ms
    served = [device.serve(Request(trace, i), deadline_ms) for i in range(len(trace.wall_ms))]
    return _outcome(served, deadline_ms)


def fixed(trace: Trace, model: Model, ratio: float, depth: int) -> Outcome:
    """Run always the same depth."""
    work_ms = model.costs.total(depth, SECONDS) + DECODING_MS
    served = [(depth, Request(trace, i).wall(work_ms)) for i in range(len(trace.wall_ms))]
    return _outcome(served, ratio * model.full_ms)


def oracle(trace: Trace, model: Model, ratio: float) -> Outcome:
    """Run the deepest depth that keeps the deadline, or else the shallowest."""
    every = [fixed(trace, model, ratio, depth) for depth in range(1, model.n_blocks + 1)]
    kept = np.stack([outcome.kept for outcome in every])
    depths = np.where(kept.any(axis=0), model.n_blocks - kept[::-1].argmax(axis=0), 1)
    return Outcome(depths, np.asarray(kept.any(axis=0)))


def _outcome(served: Sequence[tuple[int, float]], deadline_ms: float) -> Outcome:
    depths, took_ms = zip(*served, strict=True)
    return Outcome(np.array(depths), np.array(took_ms) <= deadline_ms)


def together(outcomes: Sequence[Outcome]) -> Outcome:
    """Join the outcomes of several traces."""
    depths, kept = ([getattr(outcome, name) for outcome in outcomes] for name in ("depths", "kept"))
    return Outcome(np.concatenate(depths), np.concatenate(kept))


def compare(traces: Sequence[Trace], model: Model, ratio: float) -> dict[str, Outcome]:
    """Return the outcome of the controller, of fixed depths and of the oracle over all requests of the traces."""
    found = {
        "controller": [replay(trace, model, ratio) for trace in traces],
        "shallowest": [fixed(trace, model, ratio, 1) for trace in traces],
        "half": [fixed(trace, model, ratio, model.n_blocks // 2) for trace in traces],
        "all": [fixed(trace, model, ratio, model.n_blocks) for trace in traces],
        "oracle": [oracle(trace, model, ratio) for trace in traces],
    }
    return {name: together(outcomes) for name, outcomes in found.items()}


def way_to_oracle(found: dict[str, Outcome]) -> float:
    """Return how far the controller's mean depth is from the shallowest (0) to the oracle's (1)."""
    return (found["controller"].depth - 1) / (found["oracle"].depth - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", type=Path, nargs="+")
    parser.add_argument("--scale", type=float, nargs="+", default=[1.0, 3.5], help="of the costs of the demo's model")
    options = parser.parse_args()
    heads = "trace | idle ms | deadline | kept: shallowest | half | all | controller | depth: oracle | controller | way"
    print(f"| {heads} |\n|{'---|' * (heads.count('|') + 1)}")
    traces = {file.stem: [Trace.load(file)] for file in options.traces}
    if len(traces) > 1:
        traces["together"] = [trace for one in traces.values() for trace in one]
    for name, some in traces.items():
        for scale, ratio in itertools.product(options.scale, RATIOS):
            print("| " + " | ".join([name, *cells(some, Model(scale=scale), ratio)]) + " |", flush=True)


def cells(traces: Sequence[Trace], model: Model, ratio: float) -> list[str]:
    found = compare(traces, model, ratio)
    shares = [f"{100 * found[name].share:.1f} %" for name in ("shallowest", "half", "all", "controller")]
    depths = [f"{found[name].depth:.1f}" for name in ("oracle", "controller")]
    return [f"{model.full_ms:.0f}", f"{ratio * model.full_ms:.0f} ms", *shares, *depths, f"{way_to_oracle(found):.2f}"]


if __name__ == "__main__":
    main()
