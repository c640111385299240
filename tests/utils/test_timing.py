"""Times are medians of turns after warm-up; a clock of our own says what they must be."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from layerdial.utils import timing
from layerdial.utils.timing import measure_in_turns, measure_latency


class Clock:
    """Stands still but where `passes` is called."""

    def __init__(self) -> None:
        self.now = 100.0

    def passes(self, *milliseconds: float) -> Callable[[], None]:
        """Something that takes these times, one after the other, and then none."""
        left = list(milliseconds)

        def run() -> None:
            self.now += left.pop(0) / 1000 if left else 0.0

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_latency_is_a_median_after_warm_up(clock: Clock) -> None:
    assert measure_latency(clock.passes(500, 400, 2, 30, 4), warmup=2, repeats=3) == pytest.approx(4)


def test_runs_take_turns_and_each_has_its_own_times(clock: Clock) -> None:
    order: list[str] = []
    quick, slow = clock.passes(9, 1, 3, 2), clock.passes(9, 10, 30, 20)
    runs = [lambda: (order.append("a"), quick()), lambda: (order.append("b"), slow())]
    assert measure_in_turns(runs, warmup=1, repeats=3) == pytest.approx([2, 20])
    assert order == ["a", "b"] * 4


@pytest.mark.parametrize(("budget_s", "turns"), [(0.0, 3), (0.35, 4), (0.45, 5), (100.0, 7)])
def test_no_turn_begins_after_the_budget_but_three_are_measured(clock: Clock, budget_s: float, turns: int) -> None:
    ran: list[int] = []
    tenth = clock.passes(*[100] * 20)
    measure_in_turns([lambda: (ran.append(1), tenth())], warmup=0, repeats=7, budget_s=budget_s)
    assert len(ran) == turns
