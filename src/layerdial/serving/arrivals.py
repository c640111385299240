"""How much work has been coming lately, at each depth that it could be done at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


class Arrivals:
    """A moving mean of the work that comes, in seconds of the idle device a second, by the depth of all.

    Arithmetic on times that others give, in seconds of any clock. What has longer time than the mean reaches back
    counts less, since it is spread over that time.
    """

    RECENT_S = 10.0  # after so long the weight of a request has fallen to 1/e

    def __init__(self, levels: Sequence[int]) -> None:
        self._rates = dict.fromkeys(levels, 0.0)
        self._when = -math.inf

    def add(self, work_s: Mapping[int, float], within_s: float, now: float) -> None:
        """Count a request that takes `work_s` by level, and has time for it until `within_s` from now."""
        self._age(now)
        weight = min(1.0, self.RECENT_S / within_s) / self.RECENT_S
        for level, seconds in work_s.items():
            self._rates[level] += weight * seconds

    def rate(self, level: int, now: float) -> float:
        """Return how many seconds of work a second come at a level."""
        self._age(now)
        return self._rates[level]

    def _age(self, now: float) -> None:
        if now > self._when:
            kept = math.exp((self._when - now) / self.RECENT_S)
            self._rates = {level: kept * rate for level, rate in self._rates.items()}
            self._when = now
