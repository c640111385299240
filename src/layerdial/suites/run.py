"""Execution of a suite: what is left is done, by one process at a time, and the rows are gathered."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from layerdial.errors import UserError
from layerdial.suites.plan import check_names, jobs_left, refuse_changed
from layerdial.suites.rows import forget_rows, gather_rows
from layerdial.suites.run_one import device_of_suites
from layerdial.suites.suite import Origin, RunKey, Suite
from layerdial.utils.files import check_writable
from layerdial.utils.jobs import run_jobs
from layerdial.utils.workers import Failure, Job, Pool, Workers

_log = logging.getLogger(__name__)


def run_suite(
    suite: Suite,
    runs: Mapping[RunKey, Origin],
    chosen: Collection[RunKey],
    parallel: int | None = None,
    fresh: Sequence[str] = (),
    ray: bool = False,
) -> list[Failure]:
    """Run what is left of the `chosen` runs, and what they need, at most `parallel` jobs at a time.

    `ray` does them as tasks of a Ray cluster. Returns the failures and their reasons. The runs and rows of the entries
    in `fresh`, and of those that need their models, are removed before. Raises `UserError`, before anything is changed,
    when the settings of another entry, chosen or not, have changed since its runs began.
    """
    check_writable(suite.out)
    with alone(suite):
        remove_fresh(suite, runs, fresh)
        jobs = jobs_left(suite, runs, chosen)
        if not jobs:
            return []
        _log.info("%d of the %d runs of %s are to do", len(jobs), len(runs), suite.name)

        def gather(job: Job) -> None:
            _, name, seed, _ = job.arguments
            gather_rows(suite, (name, seed))

        with _workers(parallel, ray) as (parallel, threads, workers):
            return run_jobs(jobs, parallel, f"bench {suite.name}", gather, threads, workers)


@contextmanager
def _workers(parallel: int | None, ray: bool) -> Iterator[tuple[int, int | None, Callable[..., Pool]]]:
    """Yield the jobs at a time, torch's threads of each, and what does them: processes here, or in a cluster."""
    if not ray:
        yield *_shares(parallel), Workers
        return
    from layerdial.runtime.cluster import cluster
    from layerdial.suites.on_ray import RayTasks, gpus

    with cluster() as cpus:
        yield parallel or gpus() or cpus, None if gpus() else 1, RayTasks


def _shares(parallel: int | None) -> tuple[int, int]:
    """Return the jobs at a time and torch's threads of each: on a GPU one job with all, else a core each."""
    import torch

    if device_of_suites() == "cpu":
        return parallel or os.cpu_count() or 1, 1
    return parallel or 1, torch.get_num_threads()


def remove_fresh(suite: Suite, runs: Mapping[RunKey, Origin], names: Sequence[str]) -> None:
    """Remove the runs and rows of entries and of those that need their models, if all others are as they were."""
    gone = _with_dependents(suite, names)
    refuse_changed(suite, {run: origin for run, origin in runs.items() if run[0] not in gone})
    if gone:
        forget_rows(suite, gone)
    for name in gone:
        shutil.rmtree(suite.out / name, ignore_errors=True)


def _with_dependents(suite: Suite, names: Sequence[str]) -> list[str]:
    check_names(suite, "--fresh", names)
    found: list[str] = []
    for name in suite.order():
        if name in names or any(other in found for other in suite.needs(name)):
            found.append(name)
    return found


@contextmanager
def alone(suite: Suite) -> Iterator[None]:
    """Raise `UserError` while another process runs a suite in the same place. The lock ends with its process."""
    with (suite.out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{suite.out} is in use by another layerdial bench; wait for it, or set out") from None
        yield
