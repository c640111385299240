"""The depth controller against a simulated device with a clock of its own: deadlines, load, noise, recovery."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from statistics import mean, median

import numpy as np
import pytest

from layerdial.ladder import Ladder, Rung
from layerdial.runtime.controller import CostTable, DepthController, DepthOption, Load, worthwhile
from layerdial.runtime.scheduler import Constraint, PassResult, Scheduler, TimedWindow
from layerdial.runtime.session import Cancel, Cancelled
from layerdial.subset import BlockSubset

N = 12
DEADLINE_MS = 80.0  # an idle device needs 56 ms with all blocks for 10 s of audio, 12 ms with one
IDLE_MS, LEAST_MS = 56.0, 12.0
SEEDS = range(3)


def costs_of(depths: Sequence[int], cpu_share: float = 1.0) -> CostTable:
    """0.6 ms a second of audio for features, 0.2 and 0.4 a block for the network."""
    seconds = (1.0, 10.0, 30.0)
    network = {depth: tuple((0.2 + 0.4 * depth) * s for s in seconds) for depth in depths}
    return CostTable(seconds, tuple(0.6 * s for s in seconds), network, cpu_share)


COSTS = costs_of(range(1, N + 1))
OPTIONS = tuple(DepthOption(depth, BlockSubset.prefix(N, depth), 1 / depth) for depth in range(1, N + 1))


@dataclass(frozen=True)
class Served:
    """One request: when it came, which depth was tried and which made the result, how long it took."""

    at: float
    tried: int
    depth: int
    took_ms: float
    reason: str
    could: bool  # whether the shallowest depth alone would have kept the deadline

    @property
    def stopped(self) -> bool:
        return self.depth != self.tried


class Device:
    """Serves one request after the other by the runtime's scheduler, `slow(now)` times slower than its costs say.

    It is the clock and the watchdog of the scheduler, and its network.
    """

    def __init__(
        self,
        slow: Callable[[float], float] = lambda now: 1.0,
        noise: float = 0.0,
        seed: int = 0,
        options: Sequence[DepthOption] = OPTIONS,
        costs: CostTable = COSTS,
    ) -> None:
        self.controller = DepthController(costs, options)
        self.scheduler = Scheduler(self._run, self.controller, N, clock=lambda: self.now, timer=self)
        self.costs = costs
        self.slow, self.noise, self.rng = slow, noise, np.random.default_rng(seed)
        self.now, self.due = 0.0, math.inf

    def serve(self, count: int, every: float = 0.2, deadline_ms: float = DEADLINE_MS, seconds: float = 10.0) -> list:
        """So many requests, one each `every` seconds, or as soon as the one before is done."""
        served = []
        for _ in range(count):
            begin = self.now
            served.append(self.request(deadline_ms, seconds))
            self.now = max(self.now, begin + every)
        return served

    def request(self, deadline_ms: float = DEADLINE_MS, seconds: float = 10.0) -> Served:
        begin = self.now
        features_ms = self._ms(self.costs.features(seconds))
        self.now += features_ms / 1000
        self.controller.observe_features(seconds, features_ms, self.now)
        window = TimedWindow(np.zeros(0, np.float32), seconds, seconds, begin + deadline_ms / 1000)
        self.seconds, self.tried = seconds, 0
        could = self.slow(self.now) * self.costs.total(self.controller.shallowest.depth, seconds) <= deadline_ms
        result = self.scheduler.run(window, Constraint(deadline=window.deadline))
        return Served(begin, self.tried, result.subset.depth, 1000 * (self.now - begin), result.reason, could)

    @contextmanager
    def at(self, when: float, action: Callable[[], object]) -> Iterator[None]:
        self.due = when
        yield

    def _run(self, inputs: np.ndarray, subset: BlockSubset, cancel: Cancel | None = None) -> PassResult:
        """Run to the end, or until it is stopped."""
        self.tried = max(self.tried, subset.depth)
        done = self.now + self._ms(self.costs.network(subset.depth, self.seconds)) / 1000
        if cancel is not None and done > self.due:
            self.now = max(self.now, self.due)
            raise Cancelled
        self.now = done
        return PassResult([], 1.0, subset)

    def _ms(self, idle_ms: float) -> float:
        return idle_ms * self.slow(self.now) * math.exp(self.noise * self.rng.standard_normal())


def late(served: Sequence[Served], deadline_ms: float = DEADLINE_MS, factor: float = 1.1) -> float:
    """The share of requests that took too long though the shallowest depth could have kept the deadline."""
    possible = [request for request in served if request.could]
    return mean(request.took_ms > factor * deadline_ms for request in possible)


def depths(served: Sequence[Served]) -> list[int]:
    return [request.tried for request in served]


def foreseen(factor: float) -> int:
    """The deepest that keeps the deadline under a load that is known; the shallowest if none does."""
    return max((d for d in range(1, N + 1) if factor * COSTS.total(d, 10.0) <= DEADLINE_MS), default=1)


def burst(factor: float, start: float = 10.0, end: float = 30.0) -> Callable[[float], float]:
    return lambda now: factor if start <= now < end else 1.0


# ----------------------------------------------------------------------------------------------------------- load


def test_an_idle_device_runs_all_blocks() -> None:
    served = Device().serve(50)
    assert {request.depth for request in served} == {N}
    assert {request.reason for request in served} == {"deepest within 68 ms"}  # features and the shallowest come first


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.2])
@pytest.mark.parametrize("factor", [1.5, 2.0, 3.0, 4.0])
def test_a_burst_of_load_leaves_the_deadlines_kept(factor: float, noise: float) -> None:
    served = [request for seed in SEEDS for request in Device(burst(factor), noise, seed).serve(300)]
    assert late(served) <= 0.01


@pytest.mark.parametrize("factor", [2.0, 3.0, 4.0])
def test_depth_falls_within_three_requests(factor: float) -> None:
    served = Device(burst(factor)).serve(100)
    under_load = [request for request in served if 10 <= request.at < 30]
    assert served[40].tried == N
    assert all(request.tried <= foreseen(factor) for request in under_load[3:])
    assert sum(request.stopped for request in under_load) <= 2
    assert "times the idle time" in under_load[5].reason or "no deeper one" in under_load[5].reason


@pytest.mark.parametrize("every", [0.1, 0.2, 1.0, 5.0])
def test_full_depth_comes_back_within_three_requests(every: float) -> None:
    device = Device(burst(3.0, 0.0, 30.0))
    device.serve(round(30 / every), every)
    served = device.serve(30, every)
    assert set(depths(served[3:])) == {N}


def test_all_bursts_of_one_to_thirty_seconds_leave_the_deadlines_kept() -> None:
    """Load comes and goes at random, as other processes take the CPU away and give it back."""
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        edges = np.cumsum(rng.uniform(1, 30, 40))
        factors = [float(rng.choice([1.0, 2.0, 3.0, 4.0])) for _ in range(41)]

        def slow(now: float, edges: np.ndarray = edges, factors: list[float] = factors) -> float:
            return factors[int(np.searchsorted(edges, now))]

        served = Device(slow, 0.1, seed).serve(2000)
        assert late(served) <= 0.01
        assert mean(request.depth for request in served) >= 0.5 * mean(foreseen(slow(r.at)) for r in served)


def test_without_the_controller_many_of_the_same_requests_are_late() -> None:
    only_full = Device(burst(3.0), 0.1, options=OPTIONS[-1:])
    with_options = Device(burst(3.0), 0.1)
    fixed, dialled = only_full.serve(200), with_options.serve(200)
    share = mean(10 <= request.at < 30 for request in fixed)
    assert mean(request.took_ms > 1.1 * DEADLINE_MS for request in fixed) >= 0.95 * share > 0.4
    assert mean(request.took_ms > 1.1 * DEADLINE_MS for request in dialled) <= 0.01


def test_a_ramp_up_and_down_is_followed() -> None:
    device = Device(lambda now: 1.0 + 3.0 * max(0.0, 1.0 - abs(now - 30.0) / 30.0), noise=0.05)
    served = device.serve(400)
    assert late(served) <= 0.01
    top = [request.depth for request in served if 28 <= request.at <= 32]
    assert max(top) <= 2 and served[0].tried == N and served[-1].tried == N


@pytest.mark.parametrize("every", [5.0, 10.0, 20.0, 30.0])
@pytest.mark.parametrize("seconds", [1.0, 10.0, 30.0])
def test_load_that_lasts_is_met_by_rare_requests_too(every: float, seconds: float) -> None:
    """Between two of them most of what is known is forgotten; the features say it again."""
    deadline_ms = 8.0 * seconds if seconds > 1 else 20.0
    served = Device(lambda now: 3.0, 0.05).serve(100, every, deadline_ms, seconds)
    assert late(served, deadline_ms) <= 0.01


def test_idle_time_forgets_the_load() -> None:
    device = Device(burst(3.0, 0.0, 30.0))
    device.serve(150)
    device.now += 0.1
    slowdown = device.controller.load.slowdown(device.now)
    assert slowdown == pytest.approx(3.0, rel=0.1)
    device.now += Load.FORGET_SECONDS
    assert device.controller.load.slowdown(device.now) == pytest.approx(math.sqrt(slowdown), rel=0.01)
    device.now += 120.0
    assert device.controller.load.slowdown(device.now) == pytest.approx(1.0, rel=0.01)
    assert device.request().tried == N


def test_irregular_load_is_forgotten_too_and_not_only_its_mean() -> None:
    device = Device(lambda now: 4.0 if now < 5.0 and int(now * 10) % 2 else 1.0)
    device.serve(60)
    device.now += 3600.0
    assert device.request().tried == Device(lambda now: 1.0).request().tried


# ---------------------------------------------------------------------------------------------------------- noise


@cache
def steady(noise: float) -> list[list[int]]:
    """Depths under loads and deadlines that stay the same, after a while to settle."""
    settings = itertools.product((1.0, 1.5, 2.0, 3.0), (60.0, 80.0, 100.0, 150.0), SEEDS)
    return [
        depths(Device(lambda now, load=load: load, noise, seed).serve(200, deadline_ms=deadline))[20:]
        for load, deadline, seed in settings
    ]


@pytest.mark.parametrize(("noise", "rungs"), [(0.05, 1), (0.1, 1), (0.2, 2)])
def test_noise_does_not_make_depth_swing(noise: float, rungs: int) -> None:
    runs = steady(noise)
    near = [abs(depth - median(run)) <= rungs for run in runs for depth in run]
    assert mean(near) >= 0.9


def test_without_noise_depth_stays_where_it_is() -> None:
    assert all(len(set(run[20:])) == 1 for run in steady(0.0))


def test_ample_time_keeps_all_blocks_in_spite_of_noise() -> None:
    for seed in SEEDS:
        served = Device(noise=0.15, seed=seed).serve(300, deadline_ms=2 * IDLE_MS)
        assert mean(request.tried == N for request in served) >= 0.98


@pytest.mark.parametrize("factor", [3.0, 10.0, 100.0])
def test_an_outlier_takes_depth_away_for_three_requests_at_most(factor: float) -> None:
    device = Device()
    device.serve(20)
    device.slow = lambda now: factor
    device.request()
    device.slow = lambda now: 1.0
    assert device.serve(4)[-1].tried == N


def test_one_measurement_moves_the_estimate_by_a_bounded_step() -> None:
    for took_ms in (1e-9, 1e-3, 1e6, 1e30):
        load = Load()
        load.observe(took_ms, 10.0, now=0.0)
        assert 1 / 3 < load.slowdown(0.0) < 3
        load.observe(10.0, 0.0, now=0.0)
        assert math.isfinite(load.slowdown(0.0))


def test_the_estimate_rises_faster_than_it_falls() -> None:
    up, down = Load(), Load()
    up.observe(20.0, 10.0, now=0.0)
    down.observe(5.0, 10.0, now=0.0)
    assert up.slowdown(0.0) > 1 / down.slowdown(0.0) > 1


def test_a_clock_that_goes_back_a_little_does_no_harm() -> None:
    """Threads read the clock before they wait for each other."""
    load = Load()
    load.observe(30.0, 10.0, now=5.0)
    before = load.slowdown(5.0)
    assert load.slowdown(4.9) == before
    load.observe(30.0, 10.0, now=4.9)
    assert before < load.slowdown(5.0) < 3.1


# ----------------------------------------------------------------------------------------------------- one choice


def test_a_deadline_that_nothing_keeps_gets_the_shallowest_and_the_reason_says_so() -> None:
    plan = DepthController(COSTS, OPTIONS).choose(10.0, 3.0, 0.0)
    assert plan.option.depth == 1 and plan.first and plan.stop_ms is None
    assert plan.reason.startswith("shallowest: nothing keeps 3 ms, expected ")


@pytest.mark.parametrize("left_ms", [0.0, -5.0, -1e9])
def test_time_that_has_run_out_gets_the_shallowest(left_ms: float) -> None:
    plan = DepthController(COSTS, OPTIONS).choose(10.0, left_ms, 0.0)
    assert plan.option.depth == 1 and plan.first and plan.stop_ms is None
    assert plan.reason.startswith("shallowest: nothing keeps 0 ms")


def test_a_deadline_that_only_the_shallowest_keeps_is_told_apart() -> None:
    plan = DepthController(COSTS, OPTIONS).choose(10.0, LEAST_MS, 0.0)
    assert (plan.option.depth, plan.reason) == (1, "shallowest: no deeper one keeps 12 ms")


@pytest.mark.parametrize("left_ms", [8.0, 0.0, -1e9])
def test_after_a_result_too_little_time_adds_nothing(left_ms: float) -> None:
    plan = DepthController(COSTS, OPTIONS).choose_after(OPTIONS[0], 10.0, left_ms, 0.0)
    assert (plan.option, plan.stop_ms) == (OPTIONS[0], None)
    assert plan.reason == f"nothing deeper keeps {max(left_ms, 0):.0f} ms"


def test_ample_time_gets_all_blocks_alone() -> None:
    """So the shallowest, which would take a tenth more, is not computed for nothing."""
    plan = DepthController(COSTS, OPTIONS).choose(10.0, 5 * IDLE_MS, 0.0)
    assert plan.option.depth == N and not plan.first
    served = Device().serve(5, deadline_ms=5 * IDLE_MS)
    assert {round(request.took_ms) for request in served} == {round(IDLE_MS)}


def test_endless_time_gets_all_blocks() -> None:
    assert DepthController(COSTS, OPTIONS).choose(10.0, 1e12, 0.0).option.depth == N


def chosen_within(left_ms: float, seconds: float = 10.0, options: Sequence[DepthOption] = OPTIONS) -> int:
    """The depth on an idle device, of the plan or of what follows it."""
    controller = DepthController(COSTS, options)
    plan = controller.choose(seconds, left_ms, 0.0)
    if plan.first:
        left_ms -= COSTS.network(plan.option.depth, seconds)
        plan = controller.choose_after(plan.option, seconds, left_ms, 0.0)
    return plan.option.depth


def test_more_time_never_gets_fewer_blocks() -> None:
    chosen = [chosen_within(left) for left in range(250)]
    assert chosen == sorted(chosen) and set(chosen) == set(range(1, N + 1))


def test_longer_audio_never_gets_more_blocks() -> None:
    chosen = [chosen_within(DEADLINE_MS, seconds) for seconds in np.geomspace(0.1, 3600, 200)]
    assert chosen == sorted(chosen, reverse=True) and {1, N} <= set(chosen)


def test_a_plan_without_a_result_leaves_the_time_to_run_the_shallowest_after_it() -> None:
    for left in np.linspace(20, 400, 50):
        plan = DepthController(COSTS, OPTIONS).choose(10.0, left, 0.0)
        assert plan.first == (plan.stop_ms is None)
        if plan.stop_ms is not None:
            assert COSTS.network(plan.option.depth, 10.0) <= plan.stop_ms <= left - COSTS.network(1, 10.0)


def test_a_run_is_stopped_earlier_where_others_take_the_cpu() -> None:
    """A thread that is stopped has to be run to notice it, and others may run before."""
    controller = DepthController(COSTS, OPTIONS)
    alone = controller.choose_after(OPTIONS[0], 10.0, 100.0, 0.0)
    for _ in range(20):
        controller.observe_network(1, 10.0, 3.0 * COSTS.network(1, 10.0), 0.0)
    shared = controller.choose_after(OPTIONS[0], 10.0, 100.0, 0.0)
    assert alone.stop_ms is not None and shared.stop_ms is not None
    assert alone.stop_ms - shared.stop_ms == pytest.approx(2 * controller.SLICES * controller.SLICE_MS, rel=0.01)


def test_one_block_is_all_there_is() -> None:
    options = (DepthOption(1, BlockSubset.full(1), None),)
    device = Device(burst(3.0), options=options, costs=costs_of([1]))
    served = device.serve(200, deadline_ms=30.0)
    assert set(depths(served)) == {1} and not any(request.stopped for request in served)
    assert "nothing keeps" in served[60].reason


def test_a_step_for_blocks_that_were_asked_for_need_not_be_of_the_ladder() -> None:
    controller = DepthController(COSTS, OPTIONS)
    assert controller.option_for(BlockSubset.prefix(N, 3)) is OPTIONS[2]
    other = BlockSubset(N, (3, 7))
    assert controller.option_for(other) == DepthOption(2, other, None)


# ------------------------------------------------------------------------------------------------------ CPU share


def test_the_deepest_within_a_share_of_the_cpu_is_chosen() -> None:
    controller = DepthController(costs_of(range(1, N + 1), cpu_share=2.0), OPTIONS)
    for depth in range(1, N + 1):
        needed = 2.0 * (0.6 + 0.2 + 0.4 * depth) / 1000  # two threads busy for so many ms a second of audio
        assert controller.choose_by_cpu(10.0, 1.001 * needed).option.depth == depth
    plan = controller.choose_by_cpu(10.0, 1.0)
    assert (plan.option.depth, plan.reason, plan.stop_ms) == (N, "deepest within 1 of a CPU", None)


def test_a_share_of_the_cpu_that_nothing_keeps_gets_the_shallowest() -> None:
    plan = DepthController(COSTS, OPTIONS).choose_by_cpu(10.0, 1e-6)
    assert plan.option.depth == 1
    assert plan.reason == "shallowest: nothing keeps 1e-06 of a CPU, it needs 0.0012"


def test_load_does_not_change_the_computing_time() -> None:
    device = Device(lambda now: 3.0)
    needed = COSTS.total(6, 10.0) / 10_000
    before = device.controller.choose_by_cpu(10.0, needed)
    device.serve(50)
    assert device.controller.choose_by_cpu(10.0, needed) == before


# --------------------------------------------------------------------------------------------------------- ladder


def ladder_of(*wers: float) -> Ladder:
    rungs = (Rung(d, BlockSubset.prefix(len(wers), d).key, None, wer, 0, 1) for d, wer in enumerate(wers, 1))
    return Ladder(len(wers), "wer", "dev", 1, tuple(rungs))


@pytest.mark.parametrize(
    ("wers", "kept"),
    [
        ((0.4, 0.3, 0.2, 0.1), [1, 2, 3, 4]),
        ((0.4, 0.2, 0.3, 0.1), [1, 2, 4]),
        ((0.1, 0.2, 0.3, 0.4), [1]),
        ((0.4, 0.4, 0.3, 0.3), [1, 3]),
        ((0.0, 0.0, 0.0, 0.0), [1]),
    ],
)
def test_depths_that_do_no_better_than_a_shallower_one_are_never_chosen(wers: tuple[float, ...], kept: list) -> None:
    options = worthwhile(ladder_of(*wers), len(wers))
    assert [option.depth for option in options] == kept
    assert {chosen_within(left, options=options) for left in range(300)} == set(kept)


def test_without_a_ladder_every_depth_counts_with_evenly_spaced_blocks() -> None:
    options = worthwhile(None, 4)
    assert [(option.depth, option.subset, option.wer) for option in options] == [
        (depth, BlockSubset.even(4, depth), None) for depth in range(1, 5)
    ]


# ---------------------------------------------------------------------------------------------------------- costs


def test_costs_are_straight_lines_between_lengths_and_depths() -> None:
    table = CostTable((1.0, 3.0), (2.0, 4.0), {1: (10.0, 20.0), 5: (50.0, 100.0)})
    assert table.features(2.0) == pytest.approx(3.0)
    assert table.network(1, 2.0) == pytest.approx(15.0)
    assert table.network(3, 1.0) == pytest.approx(30.0)
    assert table.network(2, 2.0) == pytest.approx(30.0)
    assert table.total(5, 3.0) == pytest.approx(104.0)


def test_costs_go_on_in_a_straight_line_beyond_what_was_measured() -> None:
    table = CostTable((1.0, 3.0), (2.0, 4.0), {1: (10.0, 20.0), 5: (50.0, 100.0)})
    assert table.features(30.0) == pytest.approx(31.0)
    assert table.network(5, 5.0) == pytest.approx(150.0)
    assert table.network(9, 1.0) == pytest.approx(90.0)


def test_costs_of_very_short_audio_stay_above_zero() -> None:
    table = CostTable((1.0, 10.0), (1.0, 10.0), {1: (0.5, 30.0)})
    for seconds in (0.0, 0.001, 0.5, 1.0):
        assert table.features(seconds) > 0 and table.network(1, seconds) > 0


def test_costs_of_one_length_alone_grow_with_it() -> None:
    table = CostTable((10.0,), (6.0,), {4: (20.0,)})
    assert table.total(4, 20.0) == pytest.approx(52.0)
    assert table.total(1, 1.0) > 0


@pytest.mark.parametrize("measured", [range(1, 13), (1, 4, 8, 12), (1, 12)])
def test_costs_grow_with_length_and_depth(measured: Sequence[int]) -> None:
    table = costs_of(measured)
    for depth, seconds in itertools.product(range(1, 12), (0.1, 1.0, 7.0, 20.0, 100.0, 3600.0)):
        assert table.network(depth, seconds) < table.network(depth + 1, seconds)
        assert table.total(depth, seconds) <= table.total(depth, 1.2 * seconds)


# -------------------------------------------------------------------------------------------------------- threads


def test_one_controller_serves_many_threads() -> None:
    controller = DepthController(COSTS, OPTIONS)

    def ask(seed: int) -> list[int]:
        rng = np.random.default_rng(seed)
        chosen = []
        for i in range(500):
            now = i / 100
            plan = controller.choose_after(OPTIONS[0], float(rng.uniform(1, 30)), float(rng.uniform(-10, 300)), now)
            slow = float(rng.uniform(0.9, 1.1))
            controller.observe_features(10.0, 6.0 * slow, now)
            controller.observe_network(plan.option.depth, 10.0, COSTS.network(plan.option.depth, 10.0) * slow, now)
            chosen.append(plan.option.depth)
        return chosen

    with ThreadPoolExecutor(16) as pool:
        chosen = [depth for some in pool.map(ask, range(16)) for depth in some]
    assert len(chosen) == 16 * 500 and set(chosen) == set(range(1, N + 1))
    assert controller.load.slowdown(5.0) == pytest.approx(1.0, rel=0.2)
    assert controller.choose(10.0, 300.0, 5.0).option.depth == N
