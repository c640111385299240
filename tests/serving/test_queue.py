"""The queue of a pool on a simulated clock: order, depth and admission, by hand and over random arrivals."""

from __future__ import annotations

import heapq
import math
import random
from itertools import permutations

import pytest

from layerdial.runtime.controller import CostTable, DepthController, DepthOption
from layerdial.serving.jobs import Refused
from layerdial.serving.scheduler import Dispatch, QueueScheduler, Ticket
from layerdial.subset import BlockSubset

N = 4
BLOCK_S = 0.1  # a second of audio takes this long a block, and as long besides


def queue_of(workers: int = 1, token_ms: float = 0.0) -> QueueScheduler:
    """A queue for a model of four blocks that takes 0.2, 0.3, 0.4 or 0.5 s for a second of audio."""
    options = [DepthOption(depth, BlockSubset.prefix(N, depth), 1 / depth) for depth in range(1, N + 1)]
    seconds = (1.0, 10.0)
    network = {depth: tuple(1000 * BLOCK_S * (depth + 1) * s - 1.5 for s in seconds) for depth in range(1, N + 1)}
    queue = QueueScheduler(DepthController(CostTable(seconds, (1.0, 1.0), network), options), workers)
    assert queue.AFTER_MS == 0.5  # which makes the times round
    return queue


def ticket(number: int, arrived: float, within: float, seconds: float = 1.0, least: int = 1, most: int = N) -> Ticket:
    return Ticket(number, arrived, arrived + within, seconds, least, most)


def numbers_in_order(queue: QueueScheduler, now: float = 0.0) -> list[int]:
    found = []
    while dispatch := queue.next(now):
        found.append(dispatch.ticket.number)
        queue.leave(dispatch.ticket)
    return found


# ------------------------------------------------------------------------------------------------------------- order


def test_the_earliest_deadline_is_first() -> None:
    queue = queue_of()
    for number, within in enumerate((9.0, 5.0, 7.0, 5.0)):
        queue.admit(ticket(number, 0.0, within), 0.0)
    assert numbers_in_order(queue) == [1, 3, 2, 0]


def test_no_more_run_at_a_time_than_there_are_workers() -> None:
    queue = queue_of(workers=2)
    for number in range(3):
        queue.admit(ticket(number, 0.0, 9.0), 0.0)
    first, second = queue.next(0.0), queue.next(0.0)
    assert first and second and queue.next(0.0) is None and (queue.queued, queue.running) == (1, 2)
    queue.leave(first.ticket)
    assert queue.next(0.0) is not None


def test_a_long_file_lets_short_ones_pass_between_its_windows() -> None:
    queue = queue_of()
    long = ticket(0, 0.0, 500.0, seconds=100.0)
    queue.admit(long, 0.0)
    assert queue.next(0.0) == Dispatch(long, N, "deepest: nothing else waits")
    queue.admit(ticket(1, 1.0, 100.0), 1.0)
    assert queue.next(1.0) is None
    queue.pause(long, 70.0)
    assert numbers_in_order(queue, 15.0)[0] == 1


def test_what_cannot_be_in_time_any_more_comes_after_what_can() -> None:
    queue = queue_of()
    for number, seconds in ((0, 1.0), (1, 1.0), (2, 10.0)):
        queue.admit(ticket(number, 0.0, 3.0 + number / 10, seconds), 0.0)
    # two seconds pass with nothing done; the long one needs two more at the least, and then none is in time
    first = queue.next(2.0)
    assert first is not None and first.ticket.number == 0
    queue.leave(first.ticket)
    second = queue.next(2.2)
    assert second is not None and second.ticket.number == 1
    queue.leave(second.ticket)
    third = queue.next(2.4)
    assert third is not None and (third.depth, third.reason) == (1, "shallowest: late at any depth")


# ------------------------------------------------------------------------------------------------------------- depth


def test_alone_and_with_time_enough_it_is_all_blocks() -> None:
    queue = queue_of()
    queue.admit(ticket(0, 0.0, 2.0), 0.0)
    dispatch = queue.next(0.0)
    assert dispatch is not None and (dispatch.depth, dispatch.reason) == (N, "deepest: nothing else waits")


@pytest.mark.parametrize(
    ("waiting", "level", "depth"),
    [(1, 4, 4), (3, 4, 4), (4, 3, 4), (5, 2, 3), (6, 2, 2), (7, 1, 2), (9, 1, 1)],
)
def test_the_more_wait_the_shallower_all_of_them_run(waiting: int, level: int, depth: int) -> None:
    """Each has 2 s, of which 0.2 s are spared. The first runs one level deeper where that leaves the others in time."""
    queue = queue_of()
    queue.AHEAD, queue.AIM = 0.0, 1.0  # the deadlines alone
    for number in range(waiting):
        queue.admit(ticket(number, 0.0, 2.0), 0.0)
    everything = queue._everything()
    assert queue._level(everything, everything[0], 0.0) == level
    dispatch = queue.next(0.0)
    assert dispatch is not None and dispatch.depth == depth


def test_one_that_waits_with_little_time_makes_the_one_before_it_shallower() -> None:
    queue = queue_of()
    queue.admit(ticket(0, 0.0, 2.0), 0.0)
    queue.admit(ticket(1, 0.0, 2.1, seconds=5.0), 0.0)  # takes 1 s at the least and 1.5 s at depth 2
    dispatch = queue.next(0.0)
    assert dispatch is not None and (dispatch.ticket.number, dispatch.depth) == (0, 2)


def test_requests_keep_between_their_own_depths() -> None:
    queue = queue_of()
    queue.admit(ticket(0, 0.0, 0.79, least=3), 0.0)
    queue.admit(ticket(1, 0.0, 0.8, least=2, most=2), 0.0)
    first = queue.next(0.0)
    assert first is not None and first.depth == 3
    queue.leave(first.ticket)
    second = queue.next(0.4)
    assert second is not None and (second.depth, second.reason) == (2, "depth 2 was asked for")


def test_at_a_steady_rate_the_depth_is_the_one_that_keeps_up() -> None:
    """Three a second of 0.9 s: depth 2 takes 0.27 s and depth 3 takes 0.36 s, more than there is."""
    queue, draw, depths, ends = queue_of(), random.Random(1), list[int](), 0.0
    coming = [(number, number / 3.0) for number in range(300)]
    while coming:
        while coming and coming[0][1] <= ends:
            number, at = coming.pop(0)
            queue.admit(ticket(number, at, 3.0, draw.uniform(0.8, 1.0)), at)
        dispatch = queue.next(ends)
        if dispatch is None:
            ends = coming[0][1]
            continue
        queue.leave(dispatch.ticket)
        ends = dispatch.ticket.free_at
        depths.append(dispatch.depth)
    assert set(depths[150:]) == {2, 3}


def test_a_slow_device_makes_it_shallower() -> None:
    queue = queue_of()
    for _ in range(20):
        queue.controller.observe_network(N, 1.0, 3.0 * 498.5, 0.0)
    queue.admit(ticket(0, 0.0, 1.0), 0.0)
    dispatch = queue.next(0.0)
    assert dispatch is not None and dispatch.depth < N and queue.slowdown(0.0) == pytest.approx(3.0, rel=0.05)


# --------------------------------------------------------------------------------------------------------- admission


def test_a_deadline_that_no_depth_keeps_is_refused_without_a_time_to_come_back() -> None:
    with pytest.raises(Refused) as refused:
        queue_of().admit(ticket(0, 0.0, 0.19), 0.0)
    assert refused.value.retry_after_s is None
    assert refused.value.reason == "1.0 s of audio take 200 ms at depth 1, more than the deadline of 190 ms"


def test_what_is_too_much_is_refused_with_the_time_until_there_is_place() -> None:
    queue = queue_of()
    for number in range(5):
        queue.admit(ticket(number, 0.0, 1.0), 0.0)
    with pytest.raises(Refused, match="with 5 others it is not done within 1000 ms") as refused:
        queue.admit(ticket(5, 0.0, 1.0), 0.0)
    assert refused.value.retry_after_s == pytest.approx(0.2)
    queue.admit(ticket(6, 0.0, 1.2), 0.0)


def test_what_was_taken_is_not_made_late_by_what_is_more_urgent() -> None:
    queue = queue_of()
    for number in range(5):
        queue.admit(ticket(number, 0.0, 1.0), 0.0)
    with pytest.raises(Refused):
        queue.admit(ticket(5, 0.0, 0.5), 0.0)


def test_what_is_cancelled_makes_place() -> None:
    queue = queue_of()
    taken = [ticket(number, 0.0, 1.0) for number in range(5)]
    for one in taken:
        queue.admit(one, 0.0)
    queue.leave(taken[2])
    queue.admit(ticket(5, 0.0, 1.0), 0.0)
    assert queue.queued == 5


def test_the_least_depth_bounds_what_is_taken() -> None:
    queue = queue_of()
    queue.admit(ticket(0, 0.0, 0.9, least=4), 0.0)
    with pytest.raises(Refused, match="take 500 ms at depth 4, and with 1 others"):
        queue.admit(ticket(1, 0.0, 0.95, least=4), 0.0)


def test_only_what_the_shallowest_depth_cannot_do_in_any_order_is_refused() -> None:
    draw = random.Random(3)
    refusals = 0
    for _ in range(300):
        queue, taken = queue_of(), list[Ticket]()
        for number in range(5):
            one = ticket(number, 0.0, draw.uniform(0.3, 2.0), draw.uniform(0.5, 3.0))
            possible = any(in_time(order) for order in permutations([*taken, one]))
            try:
                queue.admit(one, 0.0)
                taken.append(one)
            except Refused:
                refusals += 1
                assert not possible
            else:
                assert possible
    assert 200 < refusals < 1300


def in_time(order: tuple[Ticket, ...]) -> bool:
    now = 0.0
    for one in order:
        now += 2 * BLOCK_S * one.seconds
        if now > one.deadline + 1e-9:
            return False
    return True


# ------------------------------------------------------------------------------------------------- random arrivals


def run(seed: int, workers: int, least: int = 1, cancels: float = 0.0) -> tuple[QueueScheduler, dict[str, list[int]]]:
    """Have a random stream of requests served exactly as expected; return what became of each of them."""
    draw, queue = random.Random(seed), queue_of(workers)
    became: dict[str, list[int]] = {"refused": [], "in time": [], "late": [], "cancelled": []}
    ends, now, open_ones = list[tuple[float, int, Ticket]](), 0.0, dict[int, Ticket]()

    def serve(now: float) -> None:
        while dispatch := queue.next(now):
            one = dispatch.ticket
            assert max(least, one.least) <= dispatch.depth <= one.most
            heapq.heappush(ends, (one.free_at, one.number, one))

    def finish(until: float) -> None:
        while ends and ends[0][0] <= until:
            end, number, one = heapq.heappop(ends)
            if open_ones.pop(number, None) is None:
                continue
            queue.leave(one)
            became["in time" if end <= one.deadline + 1e-9 else "late"].append(number)
            serve(end)

    for number in range(400):
        now += draw.expovariate(draw.choice((1.0, 6.0)) * workers)
        finish(now)
        one = ticket(number, now, draw.uniform(0.5, 6.0), draw.uniform(0.5, 2.5), least)
        try:
            queue.admit(one, now)
            open_ones[number] = one
        except Refused:
            became["refused"].append(number)
        serve(now)
        if draw.random() < cancels and open_ones:
            gone = draw.choice(list(open_ones))
            queue.leave(open_ones.pop(gone))
            became["cancelled"].append(gone)
            serve(now)
    finish(math.inf)
    return queue, became


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("workers", [1, 2])
def test_everything_ends_once_and_what_is_taken_is_in_time(seed: int, workers: int) -> None:
    """Times are as expected here. A worker that is busy with one request cannot be had for a more urgent one."""
    queue, became = run(seed, workers)
    ended = sorted(number for numbers in became.values() for number in numbers)
    assert ended == list(range(400)) and (queue.queued, queue.running) == (0, 0)
    assert len(became["late"]) == 0 and len(became["in time"]) > 150


@pytest.mark.parametrize("seed", range(2))
def test_everything_ends_once_where_some_is_cancelled(seed: int) -> None:
    queue, became = run(seed, 2, least=2, cancels=0.2)
    ended = sorted(number for numbers in became.values() for number in numbers)
    assert ended == list(range(400)) and (queue.queued, queue.running) == (0, 0) and len(became["cancelled"]) > 30


def test_deeper_than_the_shallowest_never_makes_another_late() -> None:
    """With requests that all are in time at the shallowest depth, each dispatch leaves the rest in time."""
    draw = random.Random(7)
    for _ in range(200):
        queue = queue_of()
        for number in range(draw.randint(1, 8)):
            try:
                queue.admit(ticket(number, 0.0, draw.uniform(0.3, 5.0), draw.uniform(0.3, 2.0)), 0.0)
            except Refused:
                continue
        now = 0.0
        while dispatch := queue.next(now):
            now = dispatch.ticket.free_at
            assert now <= dispatch.ticket.deadline + 1e-9
            queue.leave(dispatch.ticket)
            assert not queue._late(queue._everything(), now - 1e-9)


# ------------------------------------------------------------------------------------------------------------ levels


@pytest.mark.parametrize(
    ("rates", "levels"),
    [
        ((0.5, 0.3, 0.2, 0.15), (1, 2, 3, 4)),  # each block brings less than the one before
        ((0.99, 0.98, 0.9, 0.5), (1, 4)),  # only all of them together bring something
        ((0.5, 0.45, 0.2, 0.15), (1, 3, 4)),
        ((None, None, None, None), (1, 2, 3, 4)),
    ],
)
def test_a_depth_that_a_mix_of_others_beats_is_not_shared(rates: tuple[float | None, ...], levels: object) -> None:
    costs = queue_of().controller.costs
    options = [DepthOption(depth, BlockSubset.prefix(N, depth), rate) for depth, rate in enumerate(rates, 1)]
    queue = QueueScheduler(DepthController(costs, options), 1)
    assert queue.levels == levels
    queue.admit(ticket(0, 0.0, 0.5, least=3), 0.0)  # what a request asks for holds nevertheless
    dispatch = queue.next(0.0)
    assert dispatch is not None and dispatch.depth == 3
