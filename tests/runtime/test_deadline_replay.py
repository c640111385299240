"""The controller on recorded load, on a simulated clock, beside fixed depths and an oracle that knows the load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deadline_replay import Model, Request, compare, fixed, oracle, replay, way_to_oracle
from load_trace import Trace

TRACES = Path(__file__).parents[2] / "benchmarks" / "traces"
HELD_OUT = ("short-2", "medium-2", "heavy-2")  # the controller's numbers were chosen on the others
SMALL, LARGE = Model(scale=1.0), Model(scale=3.5)  # 12 and 40 ms with all blocks on the idle machine


def even_trace(slowdown: float, requests: int = 30) -> Trace:
    """Requests that all are slowed down evenly."""
    units = np.arange(1, 101, dtype=np.float64)
    starts = np.arange(requests, dtype=np.float64)
    return Trace(0.5, starts, np.zeros(requests, np.int16), np.zeros(requests), [0.5 * slowdown * units] * requests)


def held_out(model: Model, ratio: float) -> tuple[float, float]:
    """How far from the shallowest depth to the oracle in mean depth, and the points of deadlines kept against it."""
    found = compare([Trace.load(TRACES / f"{name}.npz") for name in HELD_OUT], model, ratio)
    return way_to_oracle(found), 100 * (found["controller"].share - found["shallowest"].share)


@pytest.mark.parametrize(("model", "ratio", "least_way"), [(LARGE, 1.5, 0.5), (LARGE, 2.5, 0.65), (SMALL, 2.5, 0.5)])
def test_half_of_the_way_to_the_oracle_and_hardly_a_deadline_more_is_missed(
    model: Model, ratio: float, least_way: float
) -> None:
    way, points = held_out(model, ratio)
    assert way >= least_way
    assert points >= -0.5


def test_where_a_time_slice_is_a_quarter_of_the_deadline_deadlines_come_first() -> None:
    """17 ms: another program takes the CPU for 4 ms at a time, so a run cannot be stopped at the last moment."""
    way, points = held_out(SMALL, 1.5)
    assert 0.2 <= way < 0.5
    assert points >= -0.5


@pytest.mark.parametrize("ratio", [1.5, 2.5])
def test_an_idle_trace_gets_all_blocks(ratio: float) -> None:
    outcome = replay(even_trace(1.0), SMALL, ratio)
    assert set(outcome.depths.tolist()) == {SMALL.n_blocks} and outcome.kept.all()


@pytest.mark.parametrize("slowdown", [1.2, 1.6, 2.0, 3.0])
def test_on_even_load_the_oracle_is_at_most_half_of_the_blocks_away(slowdown: float) -> None:
    trace = even_trace(slowdown)
    outcome, most = replay(trace, LARGE, 2.5), oracle(trace, LARGE, 2.5)
    assert outcome.kept.all() == most.kept.all()
    assert 0.5 * most.depths[-1] <= outcome.depths[-1] <= most.depths[-1]


def test_the_oracle_keeps_what_any_depth_keeps_and_no_depth_more() -> None:
    trace = Trace.load(TRACES / "short-2.npz")
    best = oracle(trace, SMALL, 1.5)
    every = [fixed(trace, SMALL, 1.5, depth) for depth in range(1, SMALL.n_blocks + 1)]
    assert (best.kept == np.any([outcome.kept for outcome in every], axis=0)).all()
    for i, depth in enumerate(best.depths):
        deeper = [every[d - 1].kept[i] for d in range(depth + 1, SMALL.n_blocks + 1)]
        assert (best.kept[i] and every[depth - 1].kept[i] and not any(deeper)) or depth == 1


def test_a_trace_is_stored_to_a_hundredth_of_a_millisecond(tmp_path: Path) -> None:
    trace = even_trace(1.7)
    trace.save(tmp_path / "trace.npz")
    stored = Trace.load(tmp_path / "trace.npz")
    assert (stored.unit_ms, len(stored.wall_ms)) == (0.5, 30)
    assert np.abs(stored.wall_ms[3] - trace.wall_ms[3]).max() < 0.01 * len(trace.wall_ms[3])
    assert Request(stored, 0).work(17.0) == pytest.approx(10.0, abs=0.1)
    assert Request(stored, 0).wall(10.0) == pytest.approx(17.0, abs=0.1)
