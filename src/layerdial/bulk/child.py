"""A process that has the model and answers files, for one thread; a new one follows where it died."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from typing import Protocol

import numpy as np

from layerdial.bulk.answers import Answer, answer_file
from layerdial.errors import UserError
from layerdial.recognizer import Recognizer
from layerdial.request import Request
from layerdial.utils.parent import follow_parent

Load = Callable[[], Recognizer]
"""Loads the model; it is pickled, and called in each process."""


GONE = Answer({"error": "the process that read it was killed or crashed"}, True)
NOT_STARTED = "a process with the model does not start, or ends at once; give fewer --workers, it may need memory"


class Answers(Protocol):
    """What answers files, for one thread."""

    def start(self) -> None:
        """Load the model. Raises `UserError` where that fails: no file could be answered."""
        ...

    def answer(self, file: str, request: Request) -> Answer:
        """Return the answer to a file; the end of a process is an error that may pass."""
        ...

    def close(self) -> None:
        """End it, after what it does."""
        ...

    def kill(self) -> None:
        """End it at once; called by another thread."""
        ...


class Child:
    """A process that has the model, started by `start` or by the first file. Only one thread asks it."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._pool: ProcessPoolExecutor | None = None
        self.pid = 0

    def start(self) -> None:
        """Start the process and load the model. Raises `UserError` where that fails: no file could be answered."""
        if self._pool is not None:
            return
        pool = ProcessPoolExecutor(1, get_context("spawn"), _begin, (self._load,))
        try:
            self.pid = pool.submit(os.getpid).result()
        except BrokenProcessPool:
            pool.shutdown()
            raise UserError(NOT_STARTED) from None
        self._pool = pool

    def answer(self, file: str, request: Request) -> Answer:
        """Return the answer to a file. An ended process is an error that may pass: memory, or another file's damage."""
        self.start()
        assert self._pool is not None
        try:
            return self._pool.submit(_answer, file, request).result()
        except BrokenProcessPool:
            self.close()
            return GONE

    def close(self) -> None:
        """End the process, after what it does."""
        pool, self._pool, self.pid = self._pool, None, 0
        if pool is not None:
            pool.shutdown()

    def kill(self) -> None:
        """End the process at once; called by another thread."""
        if pid := self.pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


_model: list[Recognizer] = []


def _begin(load: Load) -> None:
    follow_parent()
    _model.append(warmed(load))


def warmed(load: Load) -> Recognizer:
    """Load the model and run it once, so that the time of the first file is that of any other."""
    recognizer = load()
    recognizer.answer(np.zeros(16000, np.float32), Request())
    return recognizer


def _answer(file: str, request: Request) -> Answer:
    return answer_file(_model[0], file, request)
