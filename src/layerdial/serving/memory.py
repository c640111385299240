"""Memory of requests that are done: Python and the C library keep it for a while.

Futures, tasks and errors refer to each other in circles, and audio hangs on them. Python looks for circles by how many
objects are new, which are few here. The C library keeps what was freed for what may come, in a heap for each thread.
After bursts both are tens of megabytes.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable

_EVERY_S = 1.0


async def give_back(work: Callable[[], object]) -> None:
    """Give free memory back to the system, each second since which `work` returns something else; never return.

    What is there now is taken for what stays.
    """
    trim, before = _trim(), work()
    gc.collect()
    gc.freeze()
    while True:
        await asyncio.sleep(_EVERY_S)
        if (now := work()) != before:
            before = now
            gc.collect()  # of what has come since the start, which `gc.freeze` left out
            await asyncio.to_thread(trim, 0)  # some milliseconds, without a lock of Python's


def _trim() -> Callable[[int], int]:
    """Return glibc's `malloc_trim`; with another C library what does nothing."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # TypeError: Windows has no such library without a name
        return lambda kept: 0
    return found
