"""Requests on a simulated clock: a policy decides, and measured times say how long each request takes.

The policy is the queue of a pool, `layerdial.serving.scheduler.QueueScheduler`, or what others do in its place.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from layerdial.runtime.controller import DepthController
from layerdial.serving.jobs import Refused
from layerdial.serving.scheduler import Dispatch, QueueScheduler, Ticket


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


class InTurn(QueueScheduler):
    """A queue in the order of arrival, at one depth; with `bound`, more waiting requests than that are refused.

    All requests have equally long, so that this is the order of their deadlines.
    """

    def __init__(self, controller: DepthController, workers: int, depth: int, bound: float = math.inf) -> None:
        super().__init__(controller, workers)
        self._bound, self._depth = bound, depth

    def admit(self, ticket: Ticket, now: float) -> None:
        if self.queued >= self._bound:
            raise Refused("the queue is full", 1.0)
        self._waiting.append(ticket)

    def depth(self) -> int:
        """Return the depth of the next request."""
        return self._depth

    def _choose(self, now: float) -> Dispatch:
        return Dispatch(self._waiting[0], self.depth(), "a fixed depth")


class Switching(InTurn):
    """Two models: the shallow one while more than `above` requests wait, until no more than half of them do."""

    def __init__(self, controller: DepthController, workers: int, depths: tuple[int, int], above: int) -> None:
        super().__init__(controller, workers, depths[1])
        self._shallow, self._deep = depths
        self._above, self._is_shallow = above, False

    def depth(self) -> int:
        self._is_shallow = self.queued > (self._above // 2 if self._is_shallow else self._above)
        return self._shallow if self._is_shallow else self._deep


class DeadlinesAlone(QueueScheduler):
    """Without regard to what is about to come: the deepest at which everything that waits is in time."""

    AHEAD, AIM = 0.0, 1.0


class FirstAlone(QueueScheduler):
    """The deepest for which the slack of the first request is enough, as SlackFit of SuperServe chooses."""

    def _level(self, tickets: Sequence[Ticket], next_one: Ticket, now: float) -> int:
        left_s = (next_one.deadline - now) / self.slowdown(now)
        fitting = [level for level in self.levels if next_one.work_s[next_one.depth_at(level)] <= left_s]
        return max(fitting, default=self.levels[0])

    def _deeper(self, level: int, tickets: Sequence[Ticket], next_one: Ticket, now: float) -> int:
        return level


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
    queue: QueueScheduler, requests: Sequence[Arrival], least: int, noise: float = 0.1, seed: int = 0
) -> list[Outcome]:
    """Return the outcome of each request, in their order.

    No request is shallower than `least`. Its time varies by a factor whose logarithm has the deviation `noise`.
    """
    draw, most = random.Random(seed), queue.levels[-1]
    outcomes = dict[int, Outcome]()
    ends = list[tuple[float, int, Ticket, int, float]]()

    def begin_what_can(now: float) -> None:
        while dispatch := queue.next(now):
            ticket = dispatch.ticket
            ms = requests[ticket.number].utterance.ms[dispatch.depth]
            took_s = ms / 1000.0 * math.exp(draw.gauss(0.0, noise))
            heapq.heappush(ends, (now + took_s, ticket.number, ticket, dispatch.depth, took_s))

    def end_until(when: float) -> None:
        while ends and ends[0][0] <= when:
            now, number, ticket, depth, took_s = heapq.heappop(ends)
            queue.leave(ticket)
            observe(queue.controller, depth, requests[number].utterance.seconds, took_s, now)
            outcomes[number] = Outcome(requests[number], depth, now - requests[number].at)
            begin_what_can(now)

    for number, arrival in enumerate(requests):
        end_until(arrival.at)
        ticket = Ticket(number, arrival.at, arrival.at + arrival.deadline_s, arrival.utterance.seconds, least, most)
        try:
            queue.admit(ticket, arrival.at)
        except Refused:
            outcomes[number] = Outcome(arrival, None)
        begin_what_can(arrival.at)
    end_until(math.inf)
    return [outcomes[number] for number in range(len(requests))]


def observe(controller: DepthController, depth: int, seconds: float, took_s: float, now: float) -> None:
    """Report a request's time to the controller, as a pool does."""
    around_ms = controller.costs.features(seconds) + QueueScheduler.AFTER_MS
    controller.observe_network(depth, seconds, 1000.0 * took_s - around_ms, now)
