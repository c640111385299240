"""Times of several things on a machine that does other things too: in turns, so that only ratios are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

Run = Callable[[], object]


def in_turns(runs: dict[str, Run], repeats: int) -> dict[str, float]:
    """Return median milliseconds; every turn in another order, so that nothing always follows the same."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    draw = np.random.default_rng(0)
    for turn in range(repeats + 2):
        draw.shuffle(order)
        for name in order:
            start = time.perf_counter()
            runs[name]()
            if turn >= 2:
                times[name].append(1000.0 * (time.perf_counter() - start))
    return {name: round(statistics.median(found), 4) for name, found in times.items()}
