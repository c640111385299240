"""Deadlines while other processes take the CPU away: with the controller, and at fixed depths.

`deadline_replay.py` does the same on recorded load, with an oracle.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from layerdial.runtime import Recognizer, Transcript
from load_trace import bursts

DEADLINES = (1.5, 2.5)  # times what the full depth needs on the idle machine
TOLERANCE = 1.1


def deadlines(
    folder: Path, samples: np.ndarray, requests: int, seed: int = 0, load_kind: str = "long"
) -> dict[str, Any]:
    """Requests one after another under bursts of load; each kind of request in turns, so that all meet the same load.

    A round counts where the shallowest depth kept the deadline: only then was there something to keep. It runs once
    more in each round: how often this second run is in time, where the first was, is what scheduling allows at best.
    """
    recognizer = Recognizer(folder, 1)
    recognizer.warm_up()
    idle_ms = statistics.median(timed(recognizer, samples, None)[0] for _ in range(15))
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    with bursts(seed, load_kind) as load:
        for number in range(requests):
            deadline_ms = idle_ms * DEADLINES[number % len(DEADLINES)]
            row: dict[str, Any] = {"deadline_ms": deadline_ms, "load": load.hogs}
            kinds = ["controlled", "full", "half", "shallowest", "shallowest again"]
            draw.shuffle(kinds)
            for kind in kinds:
                took, result = timed(recognizer, samples, kind, deadline_ms)
                row |= {kind: took} | ({"depth": result.depth, "reason": result.reason} if kind == "controlled" else {})
            rows.append(row)
            time.sleep(draw.uniform(0.02, 0.2))
            if (number + 1) % 250 == 0:
                print(number + 1, json.dumps(summary(rows)), flush=True)
    return {
        "idle_full_ms": round(idle_ms, 2),
        "deadlines": DEADLINES,
        **summary(rows),
        "by_deadline": by_deadline(rows),
    }


def timed(
    recognizer: Recognizer, samples: np.ndarray, kind: str | None, deadline_ms: float = 0.0
) -> tuple[float, Transcript]:
    """Milliseconds of one request, and its result."""
    start = time.perf_counter()
    if kind == "controlled":
        result = recognizer.transcribe(samples, deadline_ms=deadline_ms)
    else:
        depths = {"shallowest": 1, "shallowest again": 1, "half": recognizer.n_blocks // 2}
        result = recognizer.transcribe(samples, depth=depths.get(kind or "full"))
    return 1000.0 * (time.perf_counter() - start), result


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many of the rounds that count were in time, and how deep the controller went."""
    counting = [row for row in rows if row["shallowest"] <= row["deadline_ms"]]
    kept = {
        f"{kind}_within_{limit:g}": round(
            sum(row[kind] <= limit * row["deadline_ms"] for row in counting) / len(counting), 4
        )
        for kind in ("controlled", "full", "half", "shallowest again")
        for limit in (1.0, TOLERANCE)
    }
    depths = {
        "mean_depth_idle": statistics.fmean([row["depth"] for row in counting if not row["load"]] or [0]),
        "mean_depth_loaded": statistics.fmean([row["depth"] for row in counting if row["load"]] or [0]),
    }
    counts = {"requests": len(rows), "counting": len(counting)}
    return counts | kept | {name: round(value, 2) for name, value in depths.items()}


def by_deadline(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    times = sorted({row["deadline_ms"] for row in rows})
    return [{"deadline_ms": round(ms, 1), **summary([row for row in rows if row["deadline_ms"] == ms])} for ms in times]
