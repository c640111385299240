"""How much work has been coming lately, at each depth that it could be done at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


class Arrivals:
    """A moving mean of the work that comes, in seconds of the idle device a second, by the depth of all.

    It reaches back over ten times the time that a request has, so that there are enough requests in it, and that it
    follows the load within some deadlines. What has much longer time than others counts less, since it is spread over
    that time. Arithmetic on times that others give, in seconds of any clock.
    """

    DEADLINES = 10.0  # after so many of them the weight of a request has fallen to 1/e
    LONGEST_S = 60.0  # or after this time, if that is less
    LEAST = 3.0  # over how many the first requests are spread
    FOLLOW = 0.1  # of the difference, by which the usual time of a request follows each one

    def __init__(self, levels: Sequence[int]) -> None:
        self._work_s = dict.fromkeys(levels, 0.0)
        self._over_s = 0.0  # how long, with the same weights as the work
        self._usual_s = 0.0
        self._when = math.nan

    def add(self, work_s: Mapping[int, float], within_s: float, now: float) -> None:
        """Count a request that takes `work_s` by level, and has time for it until `within_s` from now."""
        within_s = max(within_s, 1e-3)
        short_s = min(within_s, self.LONGEST_S / self.DEADLINES)
        self._usual_s += (short_s - self._usual_s) * (self.FOLLOW if self._usual_s else 1.0)
        self._age(now)
        weight = min(1.0, self._reach_s / within_s)
        for level, seconds in work_s.items():
            self._work_s[level] += weight * seconds

    def rate(self, level: int, now: float) -> float:
        """Return how many seconds of work a second come at a level."""
        self._age(now)
        return self._work_s[level] / max(self._over_s, self.LEAST * self._usual_s, 1e-3)

    @property
    def _reach_s(self) -> float:
        return self.DEADLINES * self._usual_s

    def _age(self, now: float) -> None:
        if not now <= self._when:  # also the first time
            passed_s = 0.0 if math.isnan(self._when) else now - self._when
            kept = math.exp(-passed_s / self._reach_s) if passed_s else 1.0
            self._work_s = {level: kept * seconds for level, seconds in self._work_s.items()}
            self._over_s = kept * self._over_s + self._reach_s * (1.0 - kept)
            self._when = now
