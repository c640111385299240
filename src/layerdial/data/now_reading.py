"""What data workers read at the moment: names in memory that they share with the first process, so that it can tell.

Writing a name takes about a microsecond, and no thread.
"""

from __future__ import annotations

import multiprocessing.sharedctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SLOT = 1024  # bytes of a worker: a name that is longer loses its beginning
_mine: memoryview | None = None  # of this process, where it is a worker


class NowReading:
    """The names of files that `workers` processes read. It is passed to them when they start."""

    def __init__(self, workers: int) -> None:
        self._memory: Any = multiprocessing.sharedctypes.RawArray("B", workers * _SLOT) if workers else b""

    def begin(self, worker: int) -> None:
        """Let this process write into the place of a worker."""
        global _mine
        _mine = memoryview(self._memory).cast("B")[worker * _SLOT : (worker + 1) * _SLOT]

    def snapshot(self) -> bytes:
        """Return the memory as it is now."""
        return bytes(self._memory)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Let the first process know what this worker reads in the context; without effect in other processes."""
    if _mine is None:
        yield
        return
    text = os.fsencode(name)[1 - _SLOT :]
    _mine[: len(text) + 1] = text + b"\0"
    try:
        yield
    finally:
        _mine[0] = 0


def names_in(snapshot: bytes) -> list[str]:
    """Return the names of files that a snapshot has, each once."""
    slots = (snapshot[at : at + _SLOT].partition(b"\0")[0] for at in range(0, len(snapshot), _SLOT))
    return list(dict.fromkeys(os.fsdecode(slot) for slot in slots if slot))
