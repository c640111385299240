"""What is late is told so, once, and only then; what was in time leaves nothing behind."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from layerdial.runtime.watchdog import Watchdog, ask_for_short_slices

SOON, HOUR = 0.02, 3600.0
LONG = 10.0  # to wait for what must come; nothing is asserted of how long it takes


def test_what_is_late_is_told_so() -> None:
    called = threading.Event()
    with Watchdog().at(time.perf_counter() + SOON, called.set):
        assert called.wait(LONG)


def test_an_action_is_not_called_before_its_time() -> None:
    when: list[float] = []
    called = threading.Event()

    def note() -> None:
        when.append(time.perf_counter())
        called.set()

    due = time.perf_counter() + SOON
    with Watchdog().at(due, note):
        assert called.wait(LONG)
    assert when[0] >= due


@pytest.mark.parametrize("ago", [0.0, 1.0, HOUR, float("inf")])
def test_a_time_that_has_passed_is_told_at_once(ago: float) -> None:
    called = threading.Event()
    with Watchdog().at(time.perf_counter() - ago, called.set):
        assert called.wait(LONG)


def test_an_action_is_called_once() -> None:
    calls: list[int] = []
    later = threading.Event()
    watchdog = Watchdog()
    with watchdog.at(time.perf_counter(), lambda: calls.append(1)), watchdog.at(time.perf_counter() + SOON, later.set):
        assert later.wait(LONG)
    assert calls == [1]


def test_what_was_left_in_time_is_not_told() -> None:
    calls: list[int] = []
    in_time: list[int] = []
    later = threading.Event()
    watchdog = Watchdog()
    due = time.perf_counter() + 5 * SOON
    for i in range(100):
        with watchdog.at(due, lambda i=i: calls.append(i)):
            pass
        if time.perf_counter() < due:
            in_time.append(i)
    with watchdog.at(due + SOON, later.set):
        assert later.wait(LONG)
    assert in_time and not set(calls) & set(in_time)


def test_leaving_by_an_exception_counts_as_leaving() -> None:
    calls: list[int] = []
    later = threading.Event()
    watchdog = Watchdog()
    due = time.perf_counter() + 10 * SOON
    with pytest.raises(KeyError), watchdog.at(due, lambda: calls.append(1)):
        raise KeyError
    with watchdog.at(due + SOON, later.set):
        assert later.wait(LONG)
    assert not calls


def test_an_earlier_time_is_met_while_it_sleeps_on_a_later_one() -> None:
    calls: list[str] = []
    called = threading.Event()
    watchdog = Watchdog()
    with watchdog.at(time.perf_counter() + HOUR, lambda: calls.append("later")):
        time.sleep(SOON)  # it sleeps by now
        with watchdog.at(time.perf_counter() + SOON, called.set):
            assert called.wait(LONG)
    assert not calls


def test_they_are_called_in_the_order_of_their_times() -> None:
    calls: list[int] = []
    last = threading.Event()
    watchdog = Watchdog()
    start = time.perf_counter() + 10 * SOON  # all are entered by then, on a busy machine too
    holds = [watchdog.at(start + i / 1000, lambda i=i: calls.append(i)) for i in (3, 1, 4, 0, 2)]
    holds.append(watchdog.at(start + 6 / 1000, last.set))
    for hold in holds:
        hold.__enter__()
    assert last.wait(LONG)
    for hold in holds:
        hold.__exit__(None, None, None)
    assert calls == [0, 1, 2, 3, 4]


def test_many_threads_are_served_by_one() -> None:
    watchdog = Watchdog()

    def late(_: int) -> bool:
        called = threading.Event()
        with watchdog.at(time.perf_counter() + SOON, called.set):
            return called.wait(LONG)

    def early(_: int) -> bool:
        called = threading.Event()
        with watchdog.at(time.perf_counter() + HOUR, called.set):
            pass
        return not called.is_set()

    before = threading.active_count()
    with ThreadPoolExecutor(64) as pool:
        done = [pool.submit((late, early)[i % 2], i) for i in range(400)]
        assert all(future.result() for future in done)
        assert threading.active_count() <= before + 64 + 1


@pytest.mark.filterwarnings("ignore:Exception in thread layerdial watchdog")
@pytest.mark.parametrize("left", [float("inf"), 1e12])
def test_a_time_that_never_comes_does_not_end_the_watching(left: float) -> None:
    watchdog = Watchdog()
    called = threading.Event()
    with watchdog.at(time.perf_counter() + left, lambda: None):
        time.sleep(SOON)  # it sleeps by now
        with watchdog.at(time.perf_counter() + SOON, called.set):
            assert called.wait(LONG)


def test_quick_uses_leave_nothing_behind_though_their_time_is_far_away() -> None:
    """As with requests that have an hour, and take a millisecond."""
    watchdog = Watchdog()
    for _ in range(2000):
        with watchdog.at(time.perf_counter() + HOUR, lambda: None):
            pass
    assert len(watchdog._pending) < 100 and len(watchdog._live) == 0


def test_quick_uses_leave_nothing_behind_while_a_slow_one_waits() -> None:
    watchdog = Watchdog()
    with watchdog.at(time.perf_counter() + HOUR / 2, lambda: None):
        for _ in range(2000):
            with watchdog.at(time.perf_counter() + HOUR, lambda: None):
                pass
        assert len(watchdog._pending) < 100 and len(watchdog._live) == 1


def test_a_thread_that_asks_for_short_slices_keeps_its_policy_and_niceness() -> None:
    before = scheduling()
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.extend((ask_for_short_slices(), scheduling())))
    thread.start()
    thread.join()
    assert found[0] in (True, False) and found[1] == before


def scheduling() -> tuple[int, int] | None:
    """Policy and niceness of this thread, where the system has them."""
    return (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)) if hasattr(os, "sched_getscheduler") else None
