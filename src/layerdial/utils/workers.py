"""Processes that do jobs, one after another.

They live for several jobs: torch is imported, and features are computed, once. Each has a process group of its own, so
that an interruption comes from here alone. Each ends by itself when this process is gone.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from layerdial.errors import UserError
from layerdial.utils.parent import end_with_parent

SECONDS_TO_SAVE = 20.0


@dataclass(frozen=True)
class Job:
    """A function to call in a worker; it and its arguments are pickled. Its output goes into `log`.

    `runs` are the folders of the training runs that it makes, watched for progress out of `steps` updates in all.
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
    """A job that failed, and the cause: the user's input, another failed job, or an error of this package."""

    job: Job
    message: str
    users_mistake: bool = False
    left_out: bool = False


class Pool(Protocol):
    """What does jobs, some at a time."""

    @property
    def running(self) -> list[Job]:
        """The jobs that have been started and have not ended."""
        ...

    @property
    def full(self) -> bool:
        """Whether as many jobs as there may be are running."""
        ...

    def start(self, job: Job) -> None:
        """Begin a job."""
        ...

    def wait(self, seconds: float) -> list[tuple[Job, Failure | None]]:
        """Return the jobs that ended within some seconds, as soon as one does."""
        ...

    def closing(self) -> AbstractContextManager[None]:
        """Interrupt what still runs at the exit of the context."""
        ...


class Workers:
    """Worker processes, started when first needed. One that died is replaced."""

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
        """Return the jobs that ended within some seconds, as soon as one does."""
        workers = {worker.pipe: worker for worker in self._workers if worker.job is not None}
        ended = [workers[pipe] for pipe in multiprocessing.connection.wait(list(workers), seconds)]  # type: ignore[index]
        results = [worker.take() for worker in ended]
        self._workers = [worker for worker in self._workers if worker.alive]
        return results

    @contextmanager
    def closing(self) -> Iterator[None]:
        """End idle workers at the exit of the context, and interrupt the others, which are killed if too slow."""
        try:
            yield
        finally:
            for worker in self._workers:
                worker.interrupt()
            deadline = time.monotonic() + SECONDS_TO_SAVE
            for worker in self._workers:
                worker.end(max(0.0, deadline - time.monotonic()))


class _Worker:
    """One process, its present job, and the pipe to it."""

    def __init__(self, context: Any, threads: int | None) -> None:
        self.pipe, theirs = context.Pipe()
        self.job: Job | None = None
        self.alive = True
        self._process = context.Process(target=_work, args=(theirs, threads))
        self._process.start()
        theirs.close()  # so that its end is seen here

    @property
    def is_there(self) -> bool:
        """True where nobody has killed the process, which is not noticed while it has nothing to do."""
        return bool(self._process.is_alive())

    def give(self, job: Job) -> None:
        self.job = job
        with suppress(OSError):  # killed at this moment: its pipe reports that to `wait`
            self.pipe.send(job)

    def take(self) -> tuple[Job, Failure | None]:
        """Return the job that ended, and its failure or None."""
        job, self.job = self.job, None
        assert job is not None
        try:
            message, users_mistake = self.pipe.recv()
        except (EOFError, OSError):
            self.alive = False
            self._process.join()
            return job, Failure(job, f"its process ended with {self._process.exitcode}; see {job.log}")
        if message is None or users_mistake:
            return job, None if message is None else Failure(job, message, users_mistake)
        self.alive = False  # it ends: the error may have damaged the process, or its use of the GPU
        self._process.join()
        return job, Failure(job, message)

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
    """Do one job after another, until the pipe is closed or a job fails by an error of this package."""
    os.setsid()  # Ctrl-C reaches this process through the first one alone, once
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes may ignore it
    end_with_parent(SECONDS_TO_SAVE)
    with suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        message, users_mistake = None, False
        while message is None or users_mistake:
            job = pipe.recv()
            if threads:
                import torch

                torch.set_num_threads(threads)  # an earlier recipe may have set its own
            message, users_mistake = do_job(job)
            pipe.send((message, users_mistake))


def do_job(job: Job) -> tuple[str | None, bool]:
    """Run a job with its output in its log. Return the reason of a failure or None, and whether the user caused it."""
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
    """Append the output of this process and its own workers to `log`, inside the context."""
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
