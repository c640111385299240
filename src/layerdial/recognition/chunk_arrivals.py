"""When the chunks of a stream were there, from when its samples came."""

from __future__ import annotations

from collections import deque

from layerdial.audio.files import SAMPLE_RATE

_REACH = 120  # samples that the last frame of a chunk takes from behind it


class ChunkArrivals:
    """Follows the samples of a stream and its chunks of `seconds`. Times are in seconds of any clock."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._chunk = 0  # the number of the next chunk
        self._came: deque[tuple[int, float]] = deque()  # how many samples there were, and when
        self._first: float | None = None  # when the first chunk was there

    def follow(self, n_samples: int, at: float) -> None:
        """Note that so many samples in all were there at a time."""
        self._came.append((n_samples, at))

    @property
    def due(self) -> float:
        """When the next chunk was there. Sound that comes more than a chunk before its time has not waited."""
        needed = (self._chunk + 1) * self._seconds * SAMPLE_RATE + _REACH
        while len(self._came) > 1 and self._came[0][0] < needed:
            self._came.popleft()
        at = self._came[0][1] if self._came else 0.0
        if self._first is None:
            return at
        in_time = self._first + self._chunk * self._seconds
        return at if at >= in_time - self._seconds else in_time

    def took(self) -> None:
        """Note that the next chunk is done."""
        due = self.due
        self._first = due if self._first is None else self._first
        self._chunk += 1
