"""Measurement of milliseconds on machines with other load."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence


def measure_latency(run: Callable[[], object], warmup: int = 2, repeats: int = 7) -> float:
    """Return the median milliseconds of `run()`, after `warmup` runs that do not count."""
    return measure_in_turns([run], warmup, repeats)[0]


def measure_in_turns(
    runs: Sequence[Callable[[], object]],
    warmup: int = 2,
    repeats: int = 7,
    budget_s: float = math.inf,
    least: int = 3,
) -> list[float]:
    """Return the median milliseconds of each run, all taking turns, so that other load affects them alike.

    After `budget_s` seconds no further turn begins, but `least` are measured (fewer if `repeats` is).
    """
    times: list[list[float]] = [[] for _ in runs]
    begin = time.perf_counter()
    for turn in range(warmup + repeats):
        if turn >= warmup + least and time.perf_counter() - begin > budget_s:
            break
        for run, found in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            if turn >= warmup:
                found.append(1000 * (time.perf_counter() - start))
    return [statistics.median(found) for found in times]
