"""Requests on a simulated clock: a policy decides, and measured times say how long each request takes.

A policy is what `layerdial.serving.scheduler.QueueScheduler` is: it admits tickets, and says what a free worker runs.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from layerdial.serving.jobs import Refused
from layerdial.serving.scheduler import Dispatch, Ticket


@dataclass(frozen=True)
class Utterance:
    """A request's audio: its length, its words, and for each depth the milliseconds it takes and the errors it has."""

    seconds: float
    words: int
    ms: dict[int, float]
    errors: dict[int, int]


@dataclass(frozen=True)
class Arrival:
    """A request: when it comes, and what is in it."""

    at: float
    utterance: Utterance
    deadline_s: float


@dataclass(frozen=True)
class Outcome:
    """What became of a request: its depth, and the seconds from its arrival; no depth where it was refused."""

    arrival: Arrival
    depth: int | None
    took_s: float = math.inf

    @property
    def in_time(self) -> bool:
        return self.depth is not None and self.took_s <= self.arrival.deadline_s


class Policy(Protocol):
    """What decides which request is taken, which is next and how deep it runs."""

    def admit(self, ticket: Ticket, now: float) -> None:
        """Take a ticket, or raise `Refused`."""
        ...

    def next(self, now: float) -> Dispatch | None:
        """Return what a free worker runs now."""
        ...

    def leave(self, ticket: Ticket) -> None:
        """Take note that a ticket is done."""
        ...

    def observe(self, depth: int, seconds: float, took_s: float, now: float) -> None:
        """Take note of how long it took."""
        ...


class InTurn:
    """A queue in the order of arrival, at one depth; with `bound`, more waiting requests than that are refused."""

    def __init__(self, workers: int, depth: int, bound: float = math.inf) -> None:
        self._free, self._bound = workers, bound
        self._depth = depth
        self._waiting = deque[Ticket]()

    def admit(self, ticket: Ticket, now: float) -> None:
        if len(self._waiting) >= self._bound:
            raise Refused("the queue is full", 1.0)
        self._waiting.append(ticket)

    def depth(self) -> int:
        """Return the depth of the next request."""
        return self._depth

    def next(self, now: float) -> Dispatch | None:
        if not self._free or not self._waiting:
            return None
        depth = self.depth()
        self._free -= 1
        return Dispatch(self._waiting.popleft(), depth, "")

    def leave(self, ticket: Ticket) -> None:
        self._free += 1

    def observe(self, depth: int, seconds: float, took_s: float, now: float) -> None:
        pass


class Switching(InTurn):
    """Two models: the shallow one while more than `above` requests wait, until fewer than half of them do."""

    def __init__(self, workers: int, depths: tuple[int, int], above: int, bound: float = math.inf) -> None:
        super().__init__(workers, depths[1], bound)
        self._shallow, self._deep = depths
        self._above, self._is_shallow = above, False

    def depth(self) -> int:
        self._is_shallow = len(self._waiting) > (self._above // 2 if self._is_shallow else self._above)
        return self._shallow if self._is_shallow else self._deep


def arrivals(
    utterances: Sequence[Utterance],
    rate: float,
    seconds: float,
    deadline_s: Callable[[Utterance], float],
    seed: int,
    burst: float = 0.0,
) -> list[Arrival]:
    """Return requests of a Poisson process of `rate` a second.

    With `burst`, the rate is that many times higher for a tenth of each ten seconds, and lower for the rest.
    """
    draw, found, now = random.Random(seed), list[Arrival](), 0.0
    low = rate * (1.0 - 0.1 * burst) / 0.9 if burst else rate
    highest = max(rate * burst, low)
    while (now := now + draw.expovariate(highest)) < seconds:
        wanted = (rate * burst if now % 10.0 < 1.0 else low) if burst else rate
        if draw.random() * highest < wanted:
            utterance = draw.choice(utterances)
            found.append(Arrival(now, utterance, deadline_s(utterance)))
    return found


def simulate(
    policy: Policy,
    requests: Sequence[Arrival],
    depths: tuple[int, int],
    workers: int,
    noise: float = 0.1,
    seed: int = 0,
) -> list[Outcome]:
    """Return the outcome of each request, in their order.

    The times of a request vary by a factor whose logarithm has the deviation `noise`.
    """
    draw = random.Random(seed)
    outcomes = dict[int, Outcome]()
    ends = list[tuple[float, int, Ticket, int, float]]()

    def begin_what_can(now: float) -> None:
        while dispatch := policy.next(now):
            ticket = dispatch.ticket
            ms = requests[ticket.number].utterance.ms[dispatch.depth]
            took_s = ms / 1000.0 * math.exp(draw.gauss(0.0, noise))
            heapq.heappush(ends, (now + took_s, ticket.number, ticket, dispatch.depth, took_s))

    def end_until(when: float) -> None:
        while ends and ends[0][0] <= when:
            now, number, ticket, depth, took_s = heapq.heappop(ends)
            policy.leave(ticket)
            policy.observe(depth, requests[number].utterance.seconds, took_s, now)
            outcomes[number] = Outcome(requests[number], depth, now - requests[number].at)
            begin_what_can(now)

    for number, arrival in enumerate(requests):
        end_until(arrival.at)
        ticket = Ticket(number, arrival.at, arrival.at + arrival.deadline_s, arrival.utterance.seconds, *depths)
        try:
            policy.admit(ticket, arrival.at)
        except Refused:
            outcomes[number] = Outcome(arrival, None)
        begin_what_can(arrival.at)
    end_until(math.inf)
    return [outcomes[number] for number in range(len(requests))]
