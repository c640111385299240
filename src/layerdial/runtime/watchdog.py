"""One sleeping thread that calls an action when a block of code is late."""

from __future__ import annotations

import ctypes
import heapq
import itertools
import os
import platform
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from layerdial.utils.forks import renew_after_fork

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # the number of the system call
_SLICE_NS = 100_000  # the shortest that Linux takes


class Watchdog:
    """A timer: `with at(time, action)` calls `action` unless the block is left before `time`.

    `time` is of `time.perf_counter()`. One thread serves all. It is started when first needed, again in a fork, and
    ends with the process. An action must be quick; its exceptions are dropped.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Begin without a thread and without entries: those of the parent are the parent's."""
        self._wakes = threading.Condition()
        self._pending: list[tuple[float, int, Callable[[], object]]] = []
        self._live: set[int] = set()
        self._thread: threading.Thread | None = None

    @contextmanager
    def at(self, when: float, action: Callable[[], object]) -> Iterator[None]:
        number = next(self._numbers)
        with self._wakes:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._watch, name="layerdial watchdog", daemon=True)
                self._thread.start()
            earliest = not self._pending or when < self._pending[0][0]
            heapq.heappush(self._pending, (when, number, action))
            self._live.add(number)
            if earliest:
                self._wakes.notify()
        try:
            yield
        finally:
            with self._wakes:
                self._live.discard(number)
                if len(self._pending) > 2 * len(self._live) + 16:  # entries that are no longer live are removed early
                    self._pending = [entry for entry in self._pending if entry[1] in self._live]
                    heapq.heapify(self._pending)

    def _watch(self) -> None:
        ask_for_short_slices()
        with self._wakes:
            while True:
                while self._pending and self._pending[0][1] not in self._live:
                    heapq.heappop(self._pending)
                if not self._pending:
                    self._wakes.wait()
                    continue
                when, number, action = self._pending[0]
                left = when - time.perf_counter()
                if left > 0:
                    self._wakes.wait(min(left, 3600.0))  # longer ones overflow
                    continue
                heapq.heappop(self._pending)
                self._live.discard(number)
                with suppress(Exception):
                    action()


def ask_for_short_slices() -> bool:
    """Ask Linux for short time slices of this thread, so that it wakes up sooner on a busy CPU. Return if it took it.

    A thread that needs little is then run before those that compute, with the same share of the CPU (EEVDF, Linux
    6.12; no privilege is needed). Older kernels ignore it. Policy and niceness stay as they are.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if not sys.platform.startswith("linux") or number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)  # of this thread
    # struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period
    wanted = ctypes.create_string_buffer(struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, 0, nice, 0, _SLICE_NS, 0, 0))
    with suppress(AttributeError, OSError):
        return int(ctypes.CDLL(None).syscall(number, 0, wanted, 0)) == 0
    return False
