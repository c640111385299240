"""The simulated clock of `benchmarks/serving.py`: other policies beside the queue, on the same requests."""

from __future__ import annotations

import random

import pytest

from layerdial.serving.scheduler import QueueScheduler
from serving import BOUNDED, DYNAMIC, EXACT, SHALLOWEST, UNBOUNDED, Bench, policies, static
from serving_clock import Utterance

WER = {1: 0.35, 2: 0.2, 3: 0.13, 4: 0.1}


@pytest.fixture(scope="module")
def bench() -> Bench:
    """Utterances that take 8 ms a block and second of audio, and as long besides as one block."""
    draw, utterances = random.Random(0), []
    for _ in range(40):
        seconds = draw.uniform(2.0, 20.0)
        words = round(3 * seconds)
        ms = {depth: 8.0 * (depth + 1) * seconds for depth in WER}
        utterances.append(Utterance(seconds, words, ms, {depth: round(rate * words) for depth, rate in WER.items()}))
    return Bench(utterances, [0.5] * 40, workers=2, deadline=3.0, requests=600)


@pytest.mark.medium
def test_each_request_is_served_or_refused_once(bench: Bench) -> None:
    for name, policy in policies(sorted(WER), 2).items():
        row = bench.serve(name, policy, 2.0)
        assert row.requests == len(bench.coming(2.0, False)) and 0 <= row.in_time <= 1 - row.refused


@pytest.mark.medium
def test_full_depth_grows_late_or_refuses_where_depth_by_load_does_neither(bench: Bench) -> None:
    every = policies(sorted(WER), 2)
    row = {name: bench.serve(name, every[name], 1.8) for name in (DYNAMIC, UNBOUNDED, BOUNDED, EXACT)}
    assert row[DYNAMIC].in_time > 0.99
    assert row[UNBOUNDED].in_time < 0.2 and row[UNBOUNDED].refused == 0
    assert row[BOUNDED].refused > 0.3 and row[EXACT].refused > 0.3
    assert row[EXACT].in_time > row[BOUNDED].in_time


@pytest.mark.medium
def test_depth_by_load_has_fewer_errors_than_the_depth_that_keeps_the_load(bench: Bench) -> None:
    every = policies(sorted(WER), 2)
    row = {name: bench.serve(name, every[name], 1.3) for name in (DYNAMIC, static(2), static(3), SHALLOWEST)}
    assert row[static(2)].in_time > 0.99 and row[static(3)].in_time < 0.99
    assert row[DYNAMIC].in_time > 0.99 and row[DYNAMIC].wer < row[static(2)].wer < row[SHALLOWEST].wer


def test_idle_it_is_full_depth(bench: Bench) -> None:
    every = policies(sorted(WER), 2)
    dynamic, full = (bench.serve(name, every[name], 0.2) for name in (DYNAMIC, UNBOUNDED))
    assert dynamic.depth == full.depth == 4 and dynamic.p95_ms == pytest.approx(full.p95_ms)


def test_bursts_have_the_mean_rate_that_was_asked_for(bench: Bench) -> None:
    for bursts in (False, True):
        coming = bench.coming(1.0, bursts, seconds=1000.0)
        assert len(coming) == pytest.approx(1000.0 * bench.capacity, rel=0.05)


def test_a_policy_for_more_workers_is_no_slower(bench: Bench) -> None:
    four = Bench(bench.utterances, bench.features_ms, 4, bench.deadline, bench.requests)
    assert four.capacity == pytest.approx(2 * bench.capacity)
    assert QueueScheduler(four.known(), 4).workers == 4
