"""Encoder-decoder models on recorded load, on a simulated clock, beside fixed depths and an oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_deadline_replay import even_trace

from layerdial.runtime.controller import CostTable, DepthOption
from layerdial.subset import BlockSubset
from load_trace import Trace
from token_replay import SpeechModel, Utterance, joined, replay

TRACES = [Trace.load(file) for file in sorted((Path(__file__).parents[2] / "benchmarks" / "traces").glob("*-2.npz"))]
LENGTHS = (1.0, 15.0)
COSTS = CostTable(LENGTHS, (0.6, 4.0), {d: (12.0 + 36.0 * d,) * 2 for d in (1, 2, 3, 4)}, token_ms=(3.0, 2.5))


def model(spread: float = 0.5) -> SpeechModel:
    """Whisper tiny in int8, about, and speech of 2.9 tokens a second."""
    rng = np.random.default_rng(0)
    seconds = rng.uniform(3.0, 16.0, 60)
    rates = np.maximum(1.0, rng.normal(2.9, spread, 60))
    spoken = tuple(Utterance(float(s), int(s * rate) + 1) for s, rate in zip(seconds, rates, strict=True))
    options = tuple(DepthOption(depth, BlockSubset.prefix(4, depth), 1 / depth) for depth in (1, 2, 3, 4))
    return SpeechModel(COSTS, options, spoken)


@pytest.mark.parametrize("ratio", [1.5, 2.5])
def test_deadlines_that_the_shallowest_keeps_are_kept_and_all_blocks_keep_fewer(ratio: float) -> None:
    found = replay(TRACES, model(), ratio, rounds=2)
    assert found.kept("controller", 1.1) >= 0.98 >= found.kept("all", 1.1) + 0.1
    assert 0 < found.way < 1


def test_an_idle_device_runs_all_blocks_but_for_the_first_texts() -> None:
    found = replay([even_trace(1.0, 1000)], model(), 2.5)
    assert found.kept("controller", 1.0) == 1.0 and set(found.depth["controller"][5:]) == {4}


def test_several_requests_of_a_trace_follow_each_other_in_a_longer_one() -> None:
    trace = even_trace(2.0, 9)  # of 50 ms of work each
    longer = joined(trace, 140.0, first=1)
    assert [len(wall) for wall in longer.wall_ms] == [300, 300]  # there is too little for a third
    assert longer.start_s.tolist() == [1.0, 4.0]
    np.testing.assert_allclose(longer.wall_ms[0], np.arange(1, 301) * 1.0)
