"""Bulk transcription on one machine: processes take file after file, and rows are written as they come."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from layerdial.bulk.child import Answers, Child, Load
from layerdial.bulk.depths import Depths, depths_in_time
from layerdial.bulk.manifest import Task, Work
from layerdial.errors import UserError
from layerdial.recognizer import Recognizer
from layerdial.request import Request
from layerdial.runtime.session import usable_cpus
from layerdial.utils.files import check_writable
from layerdial.utils.locks import acquire
from layerdial.utils.progress import progress
from layerdial.utils.rows import Row, append_row

PAUSES = (0.5, 2.0)
"""Seconds before a file is tried again."""


@dataclass(frozen=True)
class Bulk:
    """What is done with a manifest: `model` is the word for it in the rows, `end` the time to be done by, if any."""

    manifest: Path
    out: Path
    model: str
    load: Load
    request: Request
    workers: int | None = None
    end: datetime | None = None
    ray: bool = False


def transcribe_manifest(bulk: Bulk) -> int:
    """Write a row for each file that has none, and print what came of it. Return 2 if any row is an error, else 0."""
    with _alone(bulk.out):
        work = Work(bulk.manifest, bulk.out, bulk.model)
        if work.done or work.foreign:
            more = f", and {work.foreign} of files that are not in {bulk.manifest}" if work.foreign else ""
            print(f"layerdial: {bulk.out} has {work.done} of {work.total} rows already{more}", file=sys.stderr)
        rows = Rows(bulk.out, bulk.model)
        if work.left:
            recognizer = _checked(bulk.load(), bulk.request)
            with _processes(bulk) as (new, count):
                count = min(bulk.workers or count, work.left)
                _run(work, depths_of(bulk, recognizer, work, count), rows, [new() for _ in range(count)])
    failed = work.failed + rows.failed
    errors = f", {failed} of them errors" if failed else ""
    print(f"written: {bulk.out} ({rows.written} new rows, {work.done + work.foreign + rows.written} in all{errors})")
    return 2 if failed else 0


@contextmanager
def _processes(bulk: Bulk) -> Iterator[tuple[Callable[[], Answers], int]]:
    """Yield what makes a process with the model, and how many there may be at a time: here, or in a cluster."""
    if not bulk.ray:
        yield lambda: Child(bulk.load), usable_cpus()
        return
    from layerdial.bulk.on_ray import RemoteChild
    from layerdial.runtime.cluster import cluster

    with cluster() as cpus:
        yield lambda: RemoteChild(bulk.load), cpus


def depths_of(bulk: Bulk, recognizer: Recognizer, work: Work, workers: int) -> Depths:
    """Return what chooses the depth of each file."""
    if bulk.end is None:
        return Depths(bulk.request)
    return depths_in_time(recognizer, bulk.request, work.tasks(), bulk.end, workers)


def _checked(recognizer: Recognizer, request: Request) -> Recognizer:
    """Return a recogniser. Raises `UserError`, once and not for each file, where it does not take the request."""
    recognizer.subset(request.depth)
    recognizer.answer(np.zeros(16000, np.float32), request)
    return recognizer


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the file of rows for this process alone: two would do the same files."""
    check_writable(out.parent)
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; give a file")
    held = acquire(out.with_name(f".{out.name}.lock"))
    if held is None:
        raise UserError(f"{out} is being written by another process; wait for its end, or give another --out")
    try:
        yield
    finally:
        held.release()


class Rows:
    """The file of rows: one for each file, whole on the disk before the next. Any thread may write."""

    def __init__(self, out: Path, model: str) -> None:
        self._out, self._model = out, model
        self._lock = threading.Lock()
        self.written = self.failed = 0

    def write(self, task: Task, row: Row) -> None:
        """Add the row of a file. Raises `UserError` where it cannot be written."""
        with self._lock:
            append_row(self._out, {**task.named, "model": self._model, **row})
            self.written += 1
            self.failed += "error" in row


class Tasks:
    """The files, one by one, for several threads."""

    def __init__(self, tasks: Iterator[Task]) -> None:
        self._tasks, self._lock = tasks, threading.Lock()

    def next(self) -> Task | None:
        """Return the next file, or none."""
        with self._lock:
            return next(self._tasks, None)


class _Worker:
    """A thread with a process, which takes file after file until there is none, or `stop`."""

    def __init__(self, child: Answers, source: Tasks, depths: Depths, rows: Rows, stop: threading.Event) -> None:
        self.child = child
        self._source, self._depths, self._rows, self._stop = source, depths, rows, stop

    def run(self) -> None:
        """Do the work. Raises `UserError` where no more can be done."""
        try:
            self.child.start()
            while not self._stop.is_set() and (task := self._source.next()):
                self._do(task)
        finally:
            self.child.close()

    def _do(self, task: Task) -> None:
        request, began = self._depths.request(task), time.monotonic()
        answer = self.child.answer(task.file, request)
        for pause in PAUSES:
            if not answer.again or self._stop.wait(pause):
                break
            began = time.monotonic()
            answer = self.child.answer(task.file, request)
        if answer.again and self._stop.is_set():
            return  # it has no row, so the next run does it
        self._depths.done(answer.row, time.monotonic() - began)
        self._rows.write(task, {**answer.row, "tries": len(PAUSES) + 1} if answer.again else answer.row)


def _run(work: Work, depths: Depths, rows: Rows, children: Sequence[Answers]) -> None:
    """Do all files, those in work are given up where it is interrupted or fails."""
    stop, source = threading.Event(), Tasks(work.tasks())
    workers = [_Worker(child, source, depths, rows, stop) for child in children]
    with (
        progress("transcribing", work.total, work.done) as update,
        ThreadPoolExecutor(len(workers), "layerdial bulk") as threads,
    ):
        left = {threads.submit(worker.run) for worker in workers}
        try:
            while left:
                done, left = wait(left, timeout=0.5, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                update(work.done + rows.written)
        except BaseException:
            stop.set()
            for worker in workers:
                worker.child.kill()
            raise
