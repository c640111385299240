"""The deepest depth with which all files are done by a time: pure arithmetic on times that others measure."""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from layerdial.bulk.manifest import Task
from layerdial.errors import UserError
from layerdial.runtime.controller import CostTable, DepthOption

SAMPLE = 200
"""So many files whose length the manifest does not say are looked at."""


def parse_finish(text: str, now: datetime) -> datetime:
    """Return the next time that a clock shows HH:MM, or the time of a date. Raises `UserError` for other words."""
    try:
        at = datetime.strptime(text, "%H:%M")
        found = now.replace(hour=at.hour, minute=at.minute, second=0, microsecond=0)
        return found if found > now else found + timedelta(days=1)
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"--finish-by is {text!r}; give a time such as 18:00 or 2030-12-31T18:00") from None
    found = found if found.tzinfo or now.tzinfo is None else found.replace(tzinfo=now.tzinfo)
    if found <= now:
        raise UserError(f"--finish-by {text} has passed; give a later time")
    return found


class Ahead:
    """The audio that is left: as the manifest says, and for files of unknown length by a sample of them.

    `probed` are numbers of files and their seconds. Those behind the present file stand for what is left, for a
    manifest may be sorted by length.
    """

    ENOUGH = 10

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.rows, self._known_rows, self._known_seconds, self._at = 0, 0, 0.0, -1
        self.sample, draw = list[Task](), random.Random(0)
        for task in tasks:
            self.rows += 1
            if task.duration is not None:
                self._known_rows, self._known_seconds = self._known_rows + 1, self._known_seconds + task.duration
                continue
            unknown = self.rows - self._known_rows
            place = len(self.sample) if len(self.sample) < SAMPLE else draw.randrange(unknown)
            if place < SAMPLE:  # each file is in the sample with the same chance
                self.sample[place : place + 1] = [task]
        self.sample.sort(key=lambda task: task.number)
        self._probed: Sequence[tuple[int, float]] = ()

    def probed(self, seconds: Sequence[float]) -> None:
        """Note the lengths of the files of the sample."""
        self._probed = [(task.number, length) for task, length in zip(self.sample, seconds, strict=True)]

    def taken(self, task: Task) -> None:
        """Note that a file is begun."""
        self.rows, self._at = self.rows - 1, task.number
        if task.duration is not None:
            self._known_rows, self._known_seconds = self._known_rows - 1, self._known_seconds - task.duration

    @property
    def seconds(self) -> float:
        """The seconds of audio that are not begun."""
        behind = self._probed[bisect.bisect_right(self._probed, self._at, key=lambda one: one[0]) :]
        sample = behind if len(behind) >= self.ENOUGH else self._probed
        mean = sum(length for _, length in sample) / len(sample) if sample else 0.0
        return max(0.0, self._known_seconds) + (self.rows - self._known_rows) * mean


@dataclass(frozen=True, slots=True)
class Choice:
    """The depth for the next file, and in how many seconds all would be done with it; `kept`: that is in time."""

    option: DepthOption
    seconds: float
    kept: bool


class FinishBy:
    """The choice of a depth before each file, by costs and by how much longer files took than these say.

    So much more time than expected is left spare; twice as much before a deeper depth follows, so that it does not go
    up and down.
    """

    SPARE = 0.05
    KEEPS = 0.98  # of what was measured before, at each file: about the last fifty count

    def __init__(self, costs: CostTable, options: Sequence[DepthOption], workers: int) -> None:
        self._costs, self._options, self._workers = costs, options, workers
        self._took, self._expected = 0.0, 0.0
        self._current: DepthOption | None = None

    @property
    def slowdown(self) -> float:
        """The time of files over that by the costs: reading, other programs and the other workers are in it."""
        return self._took / self._expected if self._expected else 1.0

    def observe(self, depth: int, seconds: float, took_s: float) -> None:
        """Note that a file of so many seconds took a worker `took_s`."""
        self._took = self.KEEPS * self._took + took_s
        self._expected = self.KEEPS * self._expected + self._costs.usual(depth, seconds) / 1000.0

    def expected(self, option: DepthOption, rows: int, seconds: float) -> float:
        """Return in how many seconds so many files are done. The last one is done by one worker alone."""
        each = self._costs.usual(option.depth, seconds / rows) / 1000.0 * self.slowdown if rows else 0.0
        return each * max(rows / self._workers, min(rows, 1)) + each * (self._workers > 1)

    def choose(self, left_s: float, rows: int, seconds: float) -> Choice:
        """Return the deepest option that does so many files and seconds of audio in the time left, or the shallowest.

        The shallowest is `kept` without time to spare.
        """
        for option in reversed(self._options[1:]):
            deeper = self._current is not None and option.depth > self._current.depth
            takes = self.expected(option, rows, seconds)
            if takes * (1.0 + (2.0 if deeper else 1.0) * self.SPARE) <= left_s:
                self._current = option
                return Choice(option, takes, True)
        self._current = self._options[0]
        takes = self.expected(self._current, rows, seconds)
        return Choice(self._current, takes, takes <= left_s)
