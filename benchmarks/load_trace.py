"""Bursts of load, and traces of what they do to a request: how far its work has come after so many milliseconds.

    python benchmarks/load_trace.py EXPORTED --kind short --seed 1 --requests 500 --out benchmarks/traces/short-1.npz

A trace makes runs comparable: `deadline_replay.py` replays any controller on it, on a simulated clock.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layerdial.runtime import Recognizer
from layerdial.runtime.session import INPUTS, OUTPUTS, usable_cpus
from layerdial.runtime.watchdog import Watchdog

WATCHDOG = Watchdog()
KINDS = {  # seconds of load, seconds without, busy processes a core
    "short": ((0.2, 3.0), (0.2, 3.0), (1,)),
    "medium": ((1.0, 8.0), (1.0, 8.0), (1, 2)),
    "heavy": ((2.0, 20.0), (0.2, 2.0), (1, 2)),
    "long": ((1.0, 30.0), (1.0, 30.0), (1, 2)),
}
WORK_MS = 45.0  # of one request, on the idle machine: all blocks, and more
WALL_MS = 120.0  # after which a request is given up
TICK_MS = 0.01


class Load:
    """How many busy processes run at the moment."""

    hogs = 0


@contextlib.contextmanager
def bursts(seed: int, kind: str = "long") -> Iterator[Load]:
    """Busy processes for a while, then none for a while, and so on; how many and how long is drawn with `seed`."""
    cores, (loaded, idle, counts) = usable_cpus(), KINDS[kind]
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(max(counts) * cores)]
    for process in busy:
        process.send_signal(signal.SIGSTOP)
    load, ended, draw = Load(), threading.Event(), random.Random(seed)

    def between(range_: tuple[float, float]) -> float:
        return float(range_[0] * (range_[1] / range_[0]) ** draw.random())

    def drive() -> None:
        while not ended.wait(between(idle)):
            load.hogs = draw.choice(counts) * cores
            for process in busy[: load.hogs]:
                process.send_signal(signal.SIGCONT)
            ended.wait(between(loaded))
            for process in busy:
                process.send_signal(signal.SIGSTOP)
            load.hogs = 0

    driver = threading.Thread(target=drive)
    driver.start()
    try:
        yield load
    finally:
        ended.set()
        driver.join()
        for process in busy:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Trace:
    """What requests met: `wall_ms[i]` (K_i,) since the start of request i, after each `unit_ms` of idle work.

    `start_s` (R,) are their starts, `hogs` (R,) the busy processes then, `timer_late_ms` (R,) how much later than asked
    the runtime's watchdog acted.
    """

    unit_ms: float
    start_s: NDArray[np.float64]
    hogs: NDArray[np.int16]
    timer_late_ms: NDArray[np.float64]
    wall_ms: list[NDArray[np.float64]]

    def save(self, file: Path) -> None:
        steps = [np.diff(row, prepend=0.0) for row in self.wall_ms]
        ticks = np.concatenate([np.minimum(np.rint(row / TICK_MS), 65535) for row in steps]).astype(np.uint16)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            file,
            unit_ms=self.unit_ms,
            start_s=np.round(self.start_s, 3),
            hogs=self.hogs,
            timer_late_ms=self.timer_late_ms.astype(np.float32),
            counts=np.array([len(row) for row in steps], np.int16),
            ticks=ticks,
        )

    @classmethod
    def load(cls, file: Path) -> Trace:
        with np.load(file) as stored:
            rows = np.split(TICK_MS * stored["ticks"].astype(np.float64), np.cumsum(stored["counts"])[:-1])
            walls = [np.cumsum(row) for row in rows]
            late = stored["timer_late_ms"].astype(np.float64)
            return cls(float(stored["unit_ms"]), stored["start_s"], stored["hogs"], late, walls)


def record(unit: Callable[[], object], requests: int, seed: int, kind: str) -> Trace:
    """Do the work of requests, unit after unit, under bursts; half of them come as soon as the one before is done."""
    for _ in range(200):
        unit()
    unit_ms = statistics.median(timed(unit) for _ in range(2000))
    draw = random.Random(seed)
    starts: list[float] = []
    hogs: list[int] = []
    lates: list[float] = []
    walls: list[NDArray[np.float64]] = []
    with bursts(seed, kind) as load:
        begin = time.perf_counter()
        for _ in range(requests):
            time.sleep(draw.uniform(0.02, 0.2) if draw.random() < 0.5 else 0.001)
            starts.append(time.perf_counter() - begin)
            hogs.append(load.hogs)
            with lateness(draw.uniform(5.0, 60.0), lates):
                walls.append(work(unit, unit_ms))
    return Trace(unit_ms, np.array(starts), np.array(hogs, np.int16), np.array(lates), walls)


def work(unit: Callable[[], object], unit_ms: float) -> NDArray[np.float64]:
    """Return milliseconds since the start after each unit."""
    start = time.perf_counter()
    found: list[float] = []
    while not found or (len(found) * unit_ms < WORK_MS and found[-1] < WALL_MS):
        unit()
        found.append(1000.0 * (time.perf_counter() - start))
    return np.array(found)


def timed(unit: Callable[[], object]) -> float:
    start = time.perf_counter()
    unit()
    return 1000.0 * (time.perf_counter() - start)


@contextlib.contextmanager
def lateness(after_ms: float, into: list[float]) -> Iterator[None]:
    """Append how many milliseconds later than `after_ms` from now the runtime's watchdog acts."""
    due, acted = time.perf_counter() + after_ms / 1000.0, threading.Event()

    def act() -> None:
        into.append(1000.0 * (time.perf_counter() - due))
        acted.set()

    with WATCHDOG.at(due, act):
        yield
        acted.wait()


def small_piece(model: Recognizer) -> Callable[[], object]:
    """Return a small piece of the model's work, one second at three blocks, with as little Python as possible."""
    x = model.features(np.random.default_rng(0).normal(0.0, 0.1, 16000).astype(np.float32))[None]
    gates = np.arange(model.n_blocks) < 3
    feed = dict(zip(INPUTS, (x, np.array([x.shape[1]]), gates), strict=True))
    return partial(model.session.graph.loaded().run, [OUTPUTS[0]], feed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an exported folder: a small piece of its work is the unit")
    parser.add_argument("--kind", choices=KINDS, default="short")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    trace = record(small_piece(Recognizer(options.model, 1)), options.requests, options.seed, options.kind)
    trace.save(options.out)
    share = np.mean(trace.hogs > 0)
    print(f"{options.out}: {options.requests} requests, a unit takes {trace.unit_ms:.3f} ms, {share:.0%} under load")
    print("the watchdog was late by ms, quantiles:", np.round(np.quantile(trace.timer_late_ms, (0.5, 0.9, 0.99)), 2))


if __name__ == "__main__":
    main()
