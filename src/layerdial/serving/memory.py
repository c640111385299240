"""Memory of requests that are done: the C library keeps it for what may come, in a heap for each thread.

After bursts that is tens of megabytes. glibc gives them back where it is asked to.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

_EVERY_S = 1.0


async def give_back(work: Callable[[], object]) -> None:
    """Give free memory back to the system, each second since which `work` returns something else; never return."""
    trim, before = _trim(), work()
    while True:
        await asyncio.sleep(_EVERY_S)
        if (now := work()) != before:
            before = now
            await asyncio.to_thread(trim, 0)  # some milliseconds, without a lock of Python's


def _trim() -> Callable[[int], int]:
    """Return glibc's `malloc_trim`; with another C library what does nothing."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # TypeError: Windows has no such library without a name
        return lambda kept: 0
    return found
