"""Jobs side by side, each in a process of its own, in the order that their needs allow.

Workers live for several jobs: torch is imported, and features are computed, once. Each has a process group of its own,
so that an interruption comes from here alone, and ends by itself when this process is gone.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from layerdial.errors import UserError
from layerdial.progress import Part, side_by_side

SECONDS_TO_SAVE = 20.0
_TAIL_BYTES = 8192


@dataclass(frozen=True)
class Job:
    """A function to call in a worker; it and its arguments are pickled. What it prints goes into `log`.

    `runs` are the folders of the training runs that it makes, watched for progress out of `steps` updates in all;
    `needs` names jobs that come before it.
    """

    name: str
    function: Callable[..., None]
    arguments: tuple[Any, ...]
    log: Path
    steps: int = 0
    runs: tuple[Path, ...] = ()
    needs: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Failure:
    """A job that did not come to its end, why, and whether the user's input is the reason."""

    job: Job
    message: str
    users_mistake: bool = False


def run_jobs(
    jobs: Sequence[Job],
    parallel: int,
    description: str,
    done: Callable[[Job], None] = lambda job: None,
    threads: int | None = None,
) -> list[Failure]:
    """Run all jobs, `parallel` at a time; those after a failed one are left out and named among the failures.

    `done` is called here after each job that came to its end. An interruption (Ctrl-C, SIGTERM) is handed on to the
    workers, which have some seconds to save what they have, and raises KeyboardInterrupt. `threads` is for torch.
    """
    waiting = list(jobs)
    failures: list[Failure] = []
    finished: set[str] = set()
    pool = _Pool(min(parallel, len(jobs)), threads)
    with _terminated_as_interrupted(), pool.closing(), side_by_side(description) as show:
        while waiting or pool.busy:
            _start_what_can(waiting, {job.name for job in jobs} - finished, pool)
            for job, failure in pool.wait(1.0):
                if failure is None:
                    done(job)
                    finished.add(job.name)
                else:
                    failures += [failure, *_give_up(waiting, job)]
            show(*_progress(jobs, finished, failures, pool), f"{len(finished)}/{len(jobs)} jobs")
    return failures


def _start_what_can(waiting: list[Job], unfinished: set[str], pool: _Pool) -> None:
    for job in [job for job in waiting if not job.needs & unfinished]:
        if pool.full:
            return
        waiting.remove(job)
        pool.start(job)


def _give_up(waiting: list[Job], failed: Job) -> Iterator[Failure]:
    """What needs a failed job, and what needs that."""
    for job in [job for job in waiting if failed.name in job.needs]:
        if job in waiting:
            waiting.remove(job)
            yield Failure(job, f"left out, it needs {failed.name}")
            yield from _give_up(waiting, job)


def _progress(
    jobs: Sequence[Job], finished: set[str], failures: Sequence[Failure], pool: _Pool
) -> tuple[int, int, list[Part]]:
    """Updates made, those of an earlier call included, updates in all, and how each running job is doing."""
    out = {failure.job.name for failure in failures}
    counted = [job for job in jobs if job.name not in out]
    states = {job.name: (job.steps, job.steps, "") if job.name in finished else _state(job) for job in counted}
    # not all is done before it is measured
    made = sum(done if name in finished else min(done, total - 1) for name, (done, total, _) in states.items() if total)
    running = [Part(job.name, *states[job.name]) for job in pool.running if job.name in states]
    return made, sum(job.steps for job in counted), running


def _state(job: Job) -> tuple[int, int, str]:
    """Updates made, updates in all, the last loss or what is done instead."""
    rows = [last_row(run / "metrics.jsonl") for run in job.runs]
    steps = sum(int(row["step"]) for row in rows if row)
    newest: dict[str, Any] = next((row for row in reversed(rows) if row), {})
    if steps >= job.steps > 0:
        return job.steps, job.steps, "measuring"
    return steps, job.steps, f"loss {newest['loss']:.3f}" if newest.get("loss") is not None else ""


def last_row(path: Path) -> dict[str, Any] | None:
    """The last whole row of a file of JSON lines that another process writes; none if there is none yet."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return None
    for line in reversed(lines):
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict):
                return row
    return None


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as SIGINT does; only the main thread can be told to."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# ------------------------------------------------------------------------------------------------------- workers


class _Pool:
    """Worker processes, started when first needed; one that died is replaced."""

    def __init__(self, size: int, threads: int | None) -> None:
        self._size = size
        self._threads = threads
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []

    @property
    def running(self) -> list[Job]:
        return [worker.job for worker in self._workers if worker.job is not None]

    @property
    def busy(self) -> bool:
        return bool(self.running)

    @property
    def full(self) -> bool:
        return len(self.running) >= self._size

    def start(self, job: Job) -> None:
        self._workers = [worker for worker in self._workers if worker.job is not None or worker.is_there]
        worker = next((worker for worker in self._workers if worker.job is None), None)
        if worker is None:
            worker = _Worker(self._context, self._threads)
            self._workers.append(worker)
        worker.give(job)

    def wait(self, seconds: float) -> list[tuple[Job, Failure | None]]:
        """The jobs that ended within some seconds, as soon as one does."""
        workers = {worker.pipe: worker for worker in self._workers if worker.job is not None}
        ended = [workers[pipe] for pipe in multiprocessing.connection.wait(list(workers), seconds)]  # type: ignore[index]
        results = [worker.take() for worker in ended]
        self._workers = [worker for worker in self._workers if worker.alive]
        return results

    @contextmanager
    def closing(self) -> Iterator[None]:
        """On the way out, idle workers end; those with work are interrupted, and killed if they take too long."""
        try:
            yield
        finally:
            for worker in self._workers:
                worker.interrupt()
            deadline = time.monotonic() + SECONDS_TO_SAVE
            for worker in self._workers:
                worker.end(max(0.0, deadline - time.monotonic()))


class _Worker:
    """One process, what it is working at, and the pipe to it."""

    def __init__(self, context: Any, threads: int | None) -> None:
        self.pipe, theirs = context.Pipe()
        self.job: Job | None = None
        self.alive = True
        self._process = context.Process(target=_work, args=(theirs, threads))
        self._process.start()
        theirs.close()  # so that its end is seen here

    @property
    def is_there(self) -> bool:
        """Whether nobody has killed it, which is not noticed while it has nothing to do."""
        return bool(self._process.is_alive())

    def give(self, job: Job) -> None:
        self.job = job
        with suppress(OSError):  # killed this very moment: its pipe says so when it is waited for
            self.pipe.send(job)

    def take(self) -> tuple[Job, Failure | None]:
        """The job that ended, and how."""
        job, self.job = self.job, None
        assert job is not None
        try:
            message, users_mistake = self.pipe.recv()
        except (EOFError, OSError):
            self.alive = False
            self._process.join()
            return job, Failure(job, f"its process ended with {self._process.exitcode}; see {job.log}")
        return job, None if message is None else Failure(job, message, users_mistake)

    def interrupt(self) -> None:
        if self.job is not None and self._process.is_alive():
            os.kill(self._process.pid, signal.SIGINT)
        with suppress(OSError):
            self.pipe.close()

    def end(self, seconds: float) -> None:
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _work(pipe: Any, threads: int | None) -> None:
    """What a worker does: one job after another, until the pipe is closed."""
    os.setsid()  # Ctrl-C reaches this process through the first one alone, once
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may have it ignored
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if threads:
        import torch

        torch.set_num_threads(threads)
    with suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            job = pipe.recv()
            pipe.send(_do(job))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(SECONDS_TO_SAVE)
    os._exit(1)


def _do(job: Job) -> tuple[str | None, bool]:
    """Run a job with its output in its log: nothing if it came to its end, else the reason and whose mistake it is."""
    with _output_in(job.log):
        try:
            job.function(*job.arguments)
            return None, False
        except UserError as error:
            print(f"layerdial: {error}", file=sys.stderr)
            return str(error), True
        except Exception as error:
            traceback.print_exc()
            return f"{type(error).__name__}: {error}".splitlines()[0] + f"; see {job.log}", False


@contextmanager
def _output_in(log: Path) -> Iterator[None]:
    """What this process and its own workers print goes to the end of `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    before = os.dup(1), os.dup(2)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.dup2(file, 1)
        os.dup2(file, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in zip((1, 2), before, strict=True):
            os.dup2(old, number)
            os.close(old)
        os.close(file)
