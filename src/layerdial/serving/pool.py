"""A pool of workers over one exported model, which answers jobs in the order of their deadlines."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.channels import AudioPath, hold_all
from layerdial.errors import UserError
from layerdial.recognizer import Audio
from layerdial.runtime.recognizer import OnnxRecognizer, seconds_of
from layerdial.runtime.scheduler import Constraint, PassResult, Scheduler
from layerdial.runtime.session import usable_cpus
from layerdial.serving.counts import Counts
from layerdial.serving.jobs import Job, Metrics, Refused, Served
from layerdial.serving.scheduler import QueueScheduler, Ticket
from layerdial.serving.task import Task
from layerdial.transcript import Chunk, Transcript

_NO_AUDIO = np.zeros(0, np.float32)
_MOST_THREADS = 1 << 16  # there are as many as jobs have begun and are not done; only the workers' compute


class Pool:
    """Workers over one exported model. Any number of threads may submit jobs at once.

    `workers` windows are computed at a time; the default is as many as there are CPUs for the recogniser's threads. No
    job runs shallower than `min_depth` unless it asks for it. A job without a deadline has `deadline_ms`, and
    `deadline_rtf` seconds more for each second of audio. Raises `UserError` for numbers that cannot be, and where
    the model's `confidence.json` is damaged.
    """

    def __init__(
        self,
        recognizer: OnnxRecognizer,
        workers: int | None = None,
        *,
        min_depth: int | None = None,
        deadline_ms: float = 2000.0,
        deadline_rtf: float = 0.5,
    ) -> None:
        if workers is not None and workers < 1:
            raise UserError(f"workers is {workers}; give 1 or more")
        recognizer.calibration  # noqa: B018 - a damaged one is said now, not to each client
        self.recognizer = recognizer
        self.workers = workers or max(1, usable_cpus() // recognizer.threads)
        self._deadline = deadline_ms, deadline_rtf
        self._queue = QueueScheduler(recognizer.controller, self.workers)  # may measure for a moment
        self._min_depth = None if min_depth is None else recognizer.subset(min_depth).depth
        self._numbers, self._counts = itertools.count(), Counts()
        self._tasks = dict[int, Task]()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = ThreadPoolExecutor(_MOST_THREADS, "layerdial job")

    # ---------------------------------------------------------------------------------------------------- from outside

    def submit(self, job: Job) -> Future[Served]:
        """Return a future with the answer. Raises `Refused` at once for what cannot be done in time.

        Raises `UserError` for audio that cannot be read and for what the model cannot do. Checking a job may take some
        milliseconds: an event loop does it in a thread. The future has the `UserError` of audio that is found to be
        damaged later. `future.cancel()` gives a job up, waiting or running, and frees its place.
        """
        arrived = time.perf_counter()
        task = self._task(job, arrived)
        task.future.add_done_callback(lambda future: self._given_up(task) if future.cancelled() else None)
        with self._changed:
            self._counts.submitted += 1
            try:
                if self._closed:
                    raise Refused("the server is stopping", None)
                self._queue.admit(task.ticket, time.perf_counter())
            except Refused:
                self._counts.refused += 1
                raise
            self._tasks[task.ticket.number] = task
            self._dispatch()
        return task.future

    def metrics(self) -> Metrics:
        """Return the figures at this moment."""
        with self._changed:
            load = self._queue.slowdown(time.perf_counter())
            return self._counts.metrics(self._queue.queued, self._queue.running, self.workers, load)

    def close(self, wait: bool = True) -> None:
        """Take no more jobs. Those taken are finished (`wait`), or cancelled."""
        with self._changed:
            self._closed = True
            left = list(self._tasks.values())
        for task in left if not wait else ():
            task.future.cancel()
        with self._changed:
            self._changed.wait_for(lambda: not self._tasks)
        self._threads.shutdown()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(wait=error is None)

    # ------------------------------------------------------------------------------------------------------- jobs

    def _task(self, job: Job, arrived: float) -> Task:
        """Return a job with what is known of it before it begins. Raises `UserError` for what cannot be done."""
        request = self.recognizer.settled(replace(job.request, depth=job.depth))
        decoding = self.recognizer.decoding.of(request, self.recognizer.name)
        audio: Audio = hold_all(job.audio) if isinstance(job.audio, AudioPath) else np.asarray(job.audio)
        seconds = seconds_of(audio)
        fixed_ms, rtf = self._deadline
        deadline_ms = fixed_ms + 1000.0 * rtf * seconds if job.deadline_ms is None else job.deadline_ms
        least, most = self._bounds(job)
        deadline = arrived + deadline_ms / 1000.0
        return Task(audio, decoding, Ticket(next(self._numbers), arrived, deadline, seconds, least, most))

    def _bounds(self, job: Job) -> tuple[int, int]:
        """Return the least and the greatest depth of a job. Raises `UserError` for a depth that the model lacks."""
        if job.depth is not None:
            self.recognizer.subset(job.depth)
            return job.depth, job.depth
        depths = [option.depth for option in self.recognizer.controller.options]
        asked = max(self._min_depth or 1, job.min_depth or 1)
        if job.min_depth is not None:
            self.recognizer.subset(job.min_depth)
        least = next((depth for depth in depths if depth >= asked), asked)
        return least, max(least, depths[-1])

    def _dispatch(self) -> None:
        """Have free workers take what is next; the lock is held."""
        while dispatch := self._queue.next(time.perf_counter()):
            task = self._tasks[dispatch.ticket.number]
            task.take_turn(dispatch)
            if task.began is None:
                task.began = time.perf_counter()
                self._threads.submit(self._run, task)

    def _run(self, task: Task) -> None:
        """Answer a job, in a thread of its own: it waits there for its turns."""
        result: Served | BaseException
        try:
            result = self._answer(task)
        except BaseException as error:  # whatever it is belongs to the job's future
            result = error
        alive = task.future.set_running_or_notify_cancel()
        self._leave(task, result if alive else None)
        if alive and isinstance(result, Served):
            task.future.set_result(result)
        elif alive and isinstance(result, BaseException):
            task.future.set_exception(result)

    def _answer(self, task: Task) -> Served:
        assert task.began is not None
        made = task.decoding.transcribe(task.audio, task.recognizing(self._recognize), None)
        done, arrived = time.perf_counter(), task.ticket.arrived
        transcript = Transcript.of(self.recognizer.calibrated(made), done - task.began, self.recognizer.subset())
        waited_ms, took_ms = 1000.0 * (task.began - arrived), 1000.0 * (done - arrived)
        deadline_ms = 1000.0 * (task.ticket.deadline - arrived)
        return Served(transcript, transcript.depth, transcript.reason, waited_ms, took_ms, deadline_ms)

    def _leave(self, task: Task, result: Served | BaseException | None) -> None:
        """Free the place of a job with its result, or with none where it was cancelled."""
        with self._changed:
            self._queue.leave(task.ticket)
            task.audio = _NO_AUDIO  # the task and its future refer to each other, so it may stay for a while
            self._tasks.pop(task.ticket.number, None)
            self._counts.ended(result)
            self._dispatch()
            self._changed.notify_all()

    def _given_up(self, task: Task) -> None:
        """Stop a job whose future was cancelled; one that has begun leaves by itself."""
        with self._changed:
            task.stop()
            if task.ticket.number in self._tasks and task.began is None:
                task.future.set_running_or_notify_cancel()  # else who waits for several futures waits for ever
                self._leave(task, None)

    # ---------------------------------------------------------------------------------------------------- windows

    def _recognize(
        self, task: Task, samples: NDArray[np.float32], begin: float, end: float
    ) -> tuple[PassResult, Chunk]:
        """Recognise a window of a job when it is its turn."""
        if task.has_run:
            with self._changed:
                task.give_turn_back()
                self._queue.pause(task.ticket, task.seconds - begin)
                self._dispatch()
        depth, reason = task.turn()
        task.has_run = True
        scheduler = Scheduler(
            task.decoding.begin,
            self.recognizer.controller,
            self.recognizer.n_blocks,
            rows=task.decoding.rows,
            cancel=task.cancel,
        )
        constraint = Constraint(subset=self.recognizer.subset(depth), reason=reason)
        result = self.recognizer.run_timed(samples, end - begin, task.ticket.deadline, constraint, scheduler)
        with self._changed:
            self._counts.ran(depth, end - begin)
        return result, Chunk(begin, end, result.subset, result.reason, result.confidence)
