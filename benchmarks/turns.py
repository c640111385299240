"""Times of several things on a machine that does other things too: in turns, so that only ratios are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

Run = Callable[[], object]
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def in_turns(runs: dict[str, Run], repeats: int, clock: Clock = time.perf_counter) -> dict[str, float]:
    """Return median milliseconds; every turn in another order, so that nothing always follows the same.

    On a machine that has no core left, the CPU time of this process says more than time on the wall.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    draw = np.random.default_rng(0)
    for turn in range(repeats + 2):
        draw.shuffle(order)
        for name in order:
            start = clock()
            runs[name]()
            if turn >= 2:
                times[name].append(1000.0 * (clock() - start))
    return {name: round(statistics.median(found), 4) for name, found in times.items()}
