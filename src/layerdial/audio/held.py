"""Samples that come in parts, of which the last ones are held.

Shapes: S samples.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray


class HeldSamples:
    """Samples that came in parts, as far as they are still needed; the first that ever came is number 0."""

    def __init__(self) -> None:
        self._parts: deque[NDArray[np.float32]] = deque()
        self._first = self.end = 0  # the first sample held, and the one behind the last

    def append(self, samples: NDArray[np.float32]) -> None:
        self._parts.append(np.array(samples, np.float32))  # a copy: who calls may use the array again
        self.end += len(samples)

    def forget(self, before: int) -> None:
        """Forget the samples before one, as far as whole parts lie there."""
        while self._parts and self._first + len(self._parts[0]) <= before:
            self._first += len(self._parts.popleft())

    def between(self, start: int, end: int) -> NDArray[np.float32]:
        """Return the samples from `start` up to `end` (S,)."""
        found, first = [np.zeros(0, np.float32)], self._first
        for part in self._parts:
            found.append(part[max(0, start - first) : max(0, end - first)])
            first += len(part)
        return np.concatenate(found)
