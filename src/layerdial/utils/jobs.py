"""Jobs side by side, in the order of their dependencies, with their progress."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from graphlib import TopologicalSorter
from pathlib import Path
from types import FrameType
from typing import Any

from layerdial.utils.hangup import HANGUP, INTERRUPTING, drop_terminal
from layerdial.utils.limited_json import parse_json
from layerdial.utils.progress import Part, side_by_side
from layerdial.utils.workers import Failure, Job, Pool, Workers

_TAIL_BYTES = 8192


def run_jobs(
    jobs: Sequence[Job],
    parallel: int,
    description: str,
    done: Callable[[Job], None] = lambda job: None,
    threads: int | None = None,
    workers: Callable[[int, int | None], Pool] = Workers,
) -> list[Failure]:
    """Run all jobs, `parallel` at a time; those after a failed one are left out and named among the failures.

    `done` is called here after each job that came to its end. An interruption (Ctrl-C, SIGTERM, SIGHUP) is handed
    on to the workers, which have some seconds to save what they have, and raises KeyboardInterrupt. `threads` is for
    torch. `workers` makes what does the jobs, from how many at a time and `threads`: processes here, or in a cluster.
    """
    names = {job.name: job for job in jobs}
    graph = TopologicalSorter({job.name: job.needs & names.keys() for job in jobs})
    graph.prepare()
    ready: list[str] = []
    failures: list[Failure] = []
    finished: set[str] = set()
    pool = workers(min(parallel, len(jobs)), threads)
    with _terminated_as_interrupted(), pool.closing(), side_by_side(description) as show:
        while len(finished) + len(failures) < len(jobs):
            ready = sorted([*ready, *graph.get_ready()], key=list(names).index)
            while ready and not pool.full:
                pool.start(names[ready.pop(0)])
            for job, failure in pool.wait(1.0):
                if failure is None:
                    done(job)
                    finished.add(job.name)
                    graph.done(job.name)
                else:
                    failures += [failure, *_left_out(jobs, job, {failed.job.name for failed in failures})]
            show(*_progress(jobs, finished, failures, pool), f"{len(finished)}/{len(jobs)} jobs")
    return failures


def _left_out(jobs: Sequence[Job], failed: Job, known: Collection[str]) -> Iterator[Failure]:
    """Yield the jobs that need a failed one, and those that need these, unless they are `known` to fail.

    The topological sort never returns them as ready.
    """
    for job in jobs:
        if failed.name in job.needs and job.name not in known:
            known = {*known, job.name}
            yield Failure(job, f"left out, it needs {failed.name}", left_out=True)
            for further in _left_out(jobs, job, known):
                known = {*known, further.job.name}
                yield further


def _progress(
    jobs: Sequence[Job], finished: set[str], failures: Sequence[Failure], pool: Pool
) -> tuple[int, int, list[Part]]:
    """Return updates made, those of an earlier call included, updates in all, and the state of each running job."""
    out = {failure.job.name for failure in failures}
    counted = [job for job in jobs if job.name not in out]
    states = {job.name: (job.steps, job.steps, "") if job.name in finished else _state(job) for job in counted}
    # a job that still has to be measured is not complete
    made = sum(done if name in finished else min(done, total - 1) for name, (done, total, _) in states.items() if total)
    running = [Part(job.name, *states[job.name]) for job in pool.running if job.name in states]
    return made, sum(job.steps for job in counted), running


def _state(job: Job) -> tuple[int, int, str]:
    """Return updates made, updates in all, and the last loss or the present step."""
    rows = [last_row(run / "metrics.jsonl") for run in job.runs]
    steps = sum(int(row["step"]) for row in rows if row)
    newest: dict[str, Any] = next((row for row in reversed(rows) if row), {})
    if steps >= job.steps > 0:
        return job.steps, job.steps, "measuring"
    return steps, job.steps, f"loss {newest['loss']:.3f}" if newest.get("loss") is not None else ""


def last_row(path: Path) -> dict[str, Any] | None:
    """Return the last complete row of a file of JSON lines that another process writes, or None."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return None
    for line in reversed(lines):
        with suppress(ValueError):
            row = parse_json(line)
            if isinstance(row, dict):
                return row
    return None


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does; only the main thread gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if number == HANGUP:
            drop_terminal()
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in INTERRUPTING if number != signal.SIGINT}
    noted = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in noted:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in noted:
            signal.signal(number, before[number])
