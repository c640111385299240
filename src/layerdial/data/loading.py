"""How many processes read ahead: as many as asked for, if the memory that they pass batches through holds them.

torch passes batches from its workers through /dev/shm. In a container that is 64 MB unless one asks for more, and a
worker that finds it full dies, or leaves the run waiting.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import TypedDict

import numpy as np

from layerdial.audio.features import Features
from layerdial.audio.files import SAMPLE_RATE

_SHARED = "/dev/shm"
_PADDING = 1.5  # of the longest batches, over the seconds of audio that a recipe asks for
_log = logging.getLogger(__name__)


class Reading(TypedDict):
    """Arguments of a DataLoader."""

    num_workers: int
    prefetch_factor: int | None


def reading_ahead(workers: int, batch_seconds: float, features: Features, most_ahead: int) -> Reading:
    """Return so many workers and at most so many batches ahead for each; fewer where /dev/shm would not hold them.

    A line in the log says so, once.
    """
    free, ahead = _free_bytes(), most_ahead
    batch = int(_PADDING * batch_seconds * features(np.zeros(SAMPLE_RATE, np.float32)).nbytes)
    asked = workers
    if free is not None:
        while workers and workers * (ahead + 1) * batch > free:
            ahead, workers = (ahead - 1, workers) if ahead > 1 else (most_ahead, workers - 1)
    if (workers, ahead) != (asked, most_ahead) and asked:
        _say(asked, workers, ahead, most_ahead, batch, free or 0)
    return {"num_workers": workers, "prefetch_factor": ahead if workers else None}


@cache
def _say(asked: int, workers: int, ahead: int, most_ahead: int, batch: int, free: int) -> None:
    used = f"{workers} workers read {ahead} ahead" if workers else "this process reads by itself"
    _log.warning(
        "%s has %d MB free, %d workers that read %d batches of %.1f MB ahead may need %d MB: %s; "
        "data.workers and data.batch_seconds decide, or docker run --shm-size=2g",
        *(_SHARED, free // 2**20, asked, most_ahead, batch / 2**20, asked * (most_ahead + 1) * batch // 2**20, used),
    )


def _free_bytes() -> int | None:
    """Return what is free in /dev/shm; None on systems that have none."""
    try:
        found = os.statvfs(_SHARED)
    except (AttributeError, OSError):
        return None
    return found.f_bavail * found.f_frsize
