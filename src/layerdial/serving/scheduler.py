"""The order of waiting requests and the depth of the next one, from what each depth costs and what else waits.

The code is pure arithmetic on times that others measure, so it can be tested on a simulated clock. Times are in seconds
of any clock; `now` is always given.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from layerdial.audio.windows import WINDOW_SECONDS
from layerdial.runtime.controller import DepthController
from layerdial.serving.arrivals import Arrivals
from layerdial.serving.jobs import Refused
from layerdial.serving.levels import shared_levels


@dataclass(eq=False)
class Ticket:
    """A request in the queue or running: the seconds of audio that are left, and between which depths it may run.

    `work_s` is what the rest costs on the idle device, by depth. `free_at` is when its window that runs now is expected
    to end; it waits where that is past.
    """

    number: int
    arrived: float
    deadline: float
    seconds: float
    least: int
    most: int
    free_at: float = -math.inf
    work_s: dict[int, float] = field(default_factory=dict)

    def depth_at(self, level: int) -> int:
        """Return the depth that it runs at where `level` is the depth of all that may."""
        return min(max(level, self.least), self.most)

    @property
    def urgency(self) -> tuple[float, int]:
        return self.deadline, self.number


@dataclass(frozen=True)
class Dispatch:
    """A window that is to be run now: of which ticket, how deep, and why."""

    ticket: Ticket
    depth: int
    reason: str


class QueueScheduler:
    """One queue for so many workers, in the order of deadlines; at each dispatch all that wait share one depth.

    That is the deepest for which two things hold. Everything that waits is done before its deadline, with some time to
    spare. And what waits and what is about to come, at the rate of the last seconds, is done in `AIM` of the time that
    it has. The next one runs one level deeper, if all are still done in that share of their time. Where not even the
    shallowest depth does all in time, as many as possible are done in time, and the rest after them.
    """

    AIM = 0.5  # of the time from arrival to deadline: how long a request is to take while there are many
    AHEAD = 0.75  # of that time: how far what is about to come is reckoned with
    SPARE = 0.1  # of that time, for work that takes longer than expected
    AFTER_MS = 0.5  # the work around the network

    def __init__(self, controller: DepthController, workers: int) -> None:
        self.controller = controller
        self.workers = workers
        self.levels = shared_levels(controller)
        self._arrivals = Arrivals(self.levels)
        self._waiting = list[Ticket]()
        self._running = dict[int, Ticket]()

    @property
    def queued(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    # ------------------------------------------------------------------------------------------------ coming, going

    def admit(self, ticket: Ticket, now: float) -> None:
        """Put a ticket into the queue.

        Raises `Refused` where it would be late at the shallowest depth behind what is more urgent, or would make late
        what was admitted before.
        """
        self._set_work(ticket)
        work_s = {level: ticket.work_s[ticket.depth_at(level)] for level in self.levels}
        self._arrivals.add(work_s, ticket.deadline - now, now)
        before = self._late(self._everything(), now)
        after = self._late(sorted([*self._everything(), ticket], key=lambda one: one.urgency), now)
        if after.keys() - before.keys():
            raise self._refusal(ticket, after, now)
        bisect.insort(self._waiting, ticket, key=lambda one: one.urgency)

    def next(self, now: float) -> Dispatch | None:
        """Return what a worker that is free runs next; None where there is none, or nothing waits.

        Its ticket is running from then on, until `pause` or `leave`.
        """
        if not self._waiting or len(self._running) >= self.workers:
            return None
        dispatch = self._choose(now)
        ticket = dispatch.ticket
        self._waiting.remove(ticket)
        window_s = self._window_s(dispatch.depth, min(ticket.seconds, WINDOW_SECONDS))
        ticket.free_at = now + self.slowdown(now) * window_s
        self._running[ticket.number] = ticket
        ticket.seconds = max(0.0, ticket.seconds - WINDOW_SECONDS)
        self._set_work(ticket)
        return dispatch

    def pause(self, ticket: Ticket, seconds: float) -> None:
        """Put a running ticket back into the queue: so many seconds of its audio are left."""
        del self._running[ticket.number]
        ticket.seconds, ticket.free_at = seconds, -math.inf
        self._set_work(ticket)
        bisect.insort(self._waiting, ticket, key=lambda one: one.urgency)

    def leave(self, ticket: Ticket) -> None:
        """Take a ticket out, waiting or running: it is done, has failed or was cancelled."""
        if self._running.pop(ticket.number, None) is None and ticket in self._waiting:
            self._waiting.remove(ticket)

    # ------------------------------------------------------------------------------------------------- arithmetic

    def _choose(self, now: float) -> Dispatch:
        kept, late = self._most_in_time(now)
        ready = [ticket for ticket in kept if ticket.free_at == -math.inf]
        if not ready:
            ticket = next(ticket for ticket in late if ticket.free_at == -math.inf)
            return Dispatch(ticket, ticket.depth_at(self.levels[0]), "shallowest: late at any depth")
        level = self._level(kept, ready[0], now)
        depth = ready[0].depth_at(self._deeper(level, kept, ready[0], now))
        return Dispatch(ready[0], depth, self._reason(ready[0], depth, len(ready)))

    def _level(self, tickets: Sequence[Ticket], next_one: Ticket, now: float) -> int:
        """Return the deepest level that all tickets can share; see the class."""
        for level in reversed(self.levels[1:]):
            if self._keeps_up(level, tickets, next_one, now) and not self._late(tickets, now, level, self.SPARE):
                return level
        return self.levels[0]

    def _deeper(self, level: int, tickets: Sequence[Ticket], next_one: Ticket, now: float) -> int:
        """Return the next deeper level where `next_one` can run there while all others share `level`, else `level`.

        Every one must be done within `AIM` of its time then.
        """
        above = self.levels[self.levels.index(level) + 1 :]
        if not above:
            return level
        more_s = next_one.work_s[next_one.depth_at(above[0])] - next_one.work_s[next_one.depth_at(level)]
        if not self._keeps_up(level, tickets, next_one, now, more_s):
            return level
        spare = max(self.SPARE, 1.0 - self.AIM)
        return level if self._late(tickets, now, level, spare, more=(next_one.number, more_s)) else above[0]

    def _keeps_up(
        self, level: int, tickets: Sequence[Ticket], next_one: Ticket, now: float, more_s: float = 0.0
    ) -> bool:
        """Return whether a level does what waits and what is about to come in a share of the time that it has.

        Waiting is what is due before something that comes at the end of that time and has as much time as `next_one`.
        `more_s` is work besides.
        """
        allowed_s = next_one.deadline - next_one.arrived
        ahead_s = self.AHEAD * allowed_s
        due = now + ahead_s + allowed_s
        work_s = more_s + sum(ticket.work_s[ticket.depth_at(level)] for ticket in tickets if ticket.deadline <= due)
        work_s += self._arrivals.rate(level, now) * ahead_s
        return self.slowdown(now) * work_s + self._running_s(now) <= self.workers * (ahead_s + self.AIM * allowed_s)

    def _reason(self, ticket: Ticket, depth: int, waiting: int) -> str:
        if ticket.least == ticket.most:
            return f"depth {depth} was asked for"
        if depth == self.levels[-1]:
            return f"deepest: time enough for all {waiting} that wait" if waiting > 1 else "deepest: nothing else waits"
        return f"deepest that is in time for all {waiting} that wait"

    def _most_in_time(self, now: float) -> tuple[list[Ticket], list[Ticket]]:
        """Return the tickets that can be in time at the shallowest depth, as many as possible, and the others.

        Where one would be late, the longest of those up to it is put off (Moore and Hodgson). Several workers are taken
        for one that is so many times faster; those that are late after all are put off too.
        """
        everything = self._everything()
        if not self._late(everything, now, first=True):
            return everything, []
        put_off, longest = set[int](), list[tuple[float, int]]()
        pace = self.slowdown(now) / self.workers
        end = now + self._running_s(now) / self.workers
        for ticket in everything:
            took_s = pace * ticket.work_s[ticket.depth_at(self.levels[0])]
            end += took_s
            heapq.heappush(longest, (-took_s, ticket.number))
            if end > ticket.deadline:
                took_s, number = heapq.heappop(longest)
                end += took_s  # it is negative
                put_off.add(number)
        put_off |= self._late([ticket for ticket in everything if ticket.number not in put_off], now).keys()
        kept = [ticket for ticket in everything if ticket.number not in put_off]
        return kept, [ticket for ticket in everything if ticket.number in put_off]

    def _running_s(self, now: float) -> float:
        """Return how long what runs is expected to take yet, over all workers."""
        return sum(max(0.0, ticket.free_at - now) for ticket in self._running.values())

    def _everything(self) -> list[Ticket]:
        """Return what waits, and what is left of running tickets, by urgency."""
        rests = [ticket for ticket in self._running.values() if ticket.seconds > 0]
        return sorted([*self._waiting, *rests], key=lambda one: one.urgency) if rests else list(self._waiting)

    def _late(
        self,
        tickets: Iterable[Ticket],
        now: float,
        level: int | None = None,
        spare: float = 0.0,
        first: bool = False,
        more: tuple[int, float] | None = None,
    ) -> dict[int, float]:
        """Return by how many seconds tickets would be late at a level (default: the shallowest), by their number.

        They are run in the order given, each by the worker that is free first. `spare` of their time is left over.
        `first`: return the first of those that are late alone. `more`: the ticket of that number takes so much longer.
        """
        level, slow = self.levels[0] if level is None else level, self.slowdown(now)
        free = [max(now, ticket.free_at) for ticket in self._running.values()]
        free += [now] * (self.workers - len(free))
        heapq.heapify(free)
        late = dict[int, float]()
        for ticket in tickets:
            start = max(free[0], ticket.free_at)
            more_s = more[1] if more is not None and ticket.number == more[0] else 0.0
            end = start + slow * (ticket.work_s[ticket.depth_at(level)] + more_s)
            heapq.heapreplace(free, end)
            due = ticket.deadline - spare * (ticket.deadline - ticket.arrived)
            if end > due:
                late[ticket.number] = end - due
                if first:
                    break
        return late

    def _refusal(self, ticket: Ticket, late: dict[int, float], now: float) -> Refused:
        depth, allowed = ticket.depth_at(self.levels[0]), 1000.0 * (ticket.deadline - ticket.arrived)
        least = 1000.0 * self.slowdown(now) * ticket.work_s[depth]
        needs = f"{ticket.seconds:.1f} s of audio take {least:.0f} ms at depth {depth}"
        if least > allowed:
            return Refused(f"{needs}, more than the deadline of {allowed:.0f} ms", None)
        others = f"{needs}, and with {self.queued + self.running} others it is not done within {allowed:.0f} ms"
        return Refused(others, max(late.values()))

    def _set_work(self, ticket: Ticket) -> None:
        depths = {ticket.depth_at(level) for level in self.levels}
        ticket.work_s = {depth: self._audio_s(depth, ticket.seconds) for depth in depths}

    def _audio_s(self, depth: int, seconds: float) -> float:
        """Return the idle device's seconds for audio of any length, window by window."""
        whole, rest = divmod(seconds, WINDOW_SECONDS)
        found = self._window_s(depth, rest) if rest else 0.0
        return found + whole * self._window_s(depth, WINDOW_SECONDS) if whole else found

    def _window_s(self, depth: int, seconds: float) -> float:
        steps = self.controller.expected_steps(seconds)
        return (self.controller.costs.total(depth, seconds, steps) + self.AFTER_MS) / 1000.0

    def slowdown(self, now: float) -> float:
        """Return the time of work now over its time on the idle device."""
        return self.controller.slowdown(now)
