"""A pool of workers over one exported model, which answers jobs in the order of their deadlines."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType

from layerdial.runtime.recognizer import OnnxRecognizer
from layerdial.runtime.session import usable_cpus
from layerdial.serving.jobs import Job, Metrics, Served


class Pool:
    """Workers over one exported model. Any number of threads may submit jobs at once.

    `workers` windows are computed at a time; the default is as many as there are CPUs for the recogniser's threads. No
    job runs shallower than `min_depth` unless it asks for it. A job without a deadline has `deadline_ms`, and
    `deadline_rtf` seconds more for each second of audio.
    """

    def __init__(
        self,
        recognizer: OnnxRecognizer,
        workers: int | None = None,
        *,
        min_depth: int | None = None,
        deadline_ms: float = 2000.0,
        deadline_rtf: float = 0.5,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._recognizer, self._clock = recognizer, clock
        self._deadline_ms, self._deadline_rtf = deadline_ms, deadline_rtf
        self._workers = workers or max(1, usable_cpus() // recognizer.threads)
        self._threads = ThreadPoolExecutor(self._workers, "layerdial worker")
        self._min_depth = min_depth

    def submit(self, job: Job) -> Future[Served]:
        """Return a future with the answer. Raises `Refused` at once for what cannot be done in time.

        Raises `UserError` for audio that cannot be read and for what the model cannot do. Checking a job may take some
        milliseconds: an event loop does it in a thread. The future has the `UserError` of audio that is found to be
        damaged later. `future.cancel()` gives a job up, waiting or running, and frees its place.
        """
        self._recognizer.decoding.of(job.request, self._recognizer.name)
        return self._threads.submit(self._run, job, self._clock())

    def _run(self, job: Job, arrived: float) -> Served:
        waited_ms = 1000.0 * (self._clock() - arrived)
        made = self._recognizer.answer(job.audio, replace(job.request, depth=job.depth))
        deadline_ms = job.deadline_ms or self._deadline_ms + 1000.0 * self._deadline_rtf * made.seconds
        took_ms = 1000.0 * (self._clock() - arrived)
        return Served(made, made.depth, made.reason or "all blocks", waited_ms, took_ms, deadline_ms)

    def metrics(self) -> Metrics:
        """Return the figures at this moment."""
        return Metrics(0, 0, 0, 0, 0, 0, 0, 0, self._workers, {}, 0.0, 1.0, {})

    def close(self, wait: bool = True) -> None:
        """Take no more jobs. Those taken are finished (`wait`), or cancelled."""
        self._threads.shutdown(wait=True, cancel_futures=not wait)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(wait=error is None)
