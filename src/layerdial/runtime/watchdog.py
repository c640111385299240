"""One sleeping thread that calls an action when a block of code is late."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from layerdial.utils.forks import renew_after_fork


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
