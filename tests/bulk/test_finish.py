"""Which depth keeps a time, on a simulated clock."""

from __future__ import annotations

from datetime import datetime

import pytest

from layerdial.bulk.finish import SAMPLE, Ahead, FinishBy, parse_finish
from layerdial.bulk.manifest import Task
from layerdial.errors import UserError
from layerdial.runtime.controller import CostTable, worthwhile

NOON = datetime(2026, 5, 4, 12, 0)
COSTS = CostTable((1.0, 10.0), (0.001, 0.01), {depth: (100.0 * depth, 1000.0 * depth) for depth in (1, 2, 3)})


def plan(workers: int = 1) -> FinishBy:
    return FinishBy(COSTS, worthwhile(None, 3), workers)


def simulated(seconds: float, files: int, slow: float) -> tuple[list[int], float]:
    """The depths of files of 10 s, and the time that they take, on a machine that is slower than its profile says."""
    chosen, now, by = list[int](), 0.0, plan()
    for left in range(files, 0, -1):
        choice = by.choose(seconds - now, left, 10.0 * left)
        took = slow * choice.option.depth
        by.observe(choice.option.depth, 10.0, took)
        chosen.append(choice.option.depth)
        now += took
    return chosen, now


def test_the_deepest_that_keeps_the_time_is_chosen() -> None:
    assert [plan().choose(seconds, 100, 1000.0).option.depth for seconds in (110, 220, 320)] == [1, 2, 3]


def test_two_workers_need_half_the_time_and_one_file_more() -> None:
    option = worthwhile(None, 3)[0]
    assert plan(2).expected(option, 100, 1000.0) == pytest.approx(51.0, rel=1e-3)


def test_what_cannot_be_kept_is_said() -> None:
    choice = plan().choose(90.0, 100, 1000.0)
    assert (choice.option.depth, choice.kept) == (1, False)
    assert choice.seconds == pytest.approx(100.0, rel=1e-3)


def test_a_machine_as_fast_as_its_profile_runs_one_depth_throughout() -> None:
    chosen, took = simulated(330.0, 100, slow=1.0)
    assert chosen == [3] * 100 and took == 300.0


@pytest.mark.parametrize("slow", [1.5, 2.0, 2.8])
def test_a_slower_machine_goes_shallower_and_keeps_the_time(slow: float) -> None:
    chosen, took = simulated(330.0, 100, slow)
    assert took <= 330.0 and chosen[0] == 3 and min(chosen) < 3


def test_a_faster_machine_goes_deeper() -> None:
    chosen, took = simulated(130.0, 100, slow=0.3)
    assert chosen[0] == 1 and chosen[-1] == 3 and took <= 130.0


def test_lengths_of_the_manifest_are_counted_down() -> None:
    tasks = [Task(number, "a", duration=10.0 * (number + 1)) for number in range(4)]
    ahead = Ahead(tasks)
    assert (ahead.rows, ahead.seconds, ahead.sample) == (4, 100.0, [])
    ahead.taken(tasks[3])
    assert (ahead.rows, ahead.seconds) == (3, 60.0)


def test_a_sample_stands_for_files_of_unknown_length_also_where_they_are_sorted() -> None:
    tasks = [Task(number, "a") for number in range(5000)]
    ahead = Ahead(tasks)
    ahead.probed([1.0 if task.number < 2500 else 21.0 for task in ahead.sample])
    assert len({task.number for task in ahead.sample}) == SAMPLE
    assert ahead.seconds == pytest.approx(5000 * 11, rel=0.2)
    for task in tasks[:2500]:
        ahead.taken(task)
    assert ahead.seconds == 2500 * 21


def test_a_time_of_day_is_the_next_one() -> None:
    assert parse_finish("18:00", NOON) == datetime(2026, 5, 4, 18, 0)
    assert parse_finish("09:30", NOON) == datetime(2026, 5, 5, 9, 30)
    assert parse_finish("2026-05-06T07:00", NOON) == datetime(2026, 5, 6, 7, 0)


@pytest.mark.parametrize("text", ["soon", "25:00", "2026-05-04T11:00", ""])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--finish-by"):
        parse_finish(text, NOON)
