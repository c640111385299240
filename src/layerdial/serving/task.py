"""A job that a pool has taken: its place in the queue, its future, and its turns."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from layerdial.recognizer import Audio
from layerdial.runtime.decoding import Decoding, RecognizeStretch
from layerdial.runtime.scheduler import PassResult
from layerdial.runtime.session import Cancel, Cancelled
from layerdial.serving.jobs import Served
from layerdial.serving.scheduler import Dispatch, Ticket
from layerdial.subset import BlockSubset
from layerdial.transcript import Chunk

RecognizeTurn = Callable[["Task", NDArray[np.float32], float, float], tuple[PassResult, Chunk]]


class Task:
    """A job between its arrival and its answer. Its thread waits for its turns, which others give it.

    `began` is when its first turn came; `has_run` says whether its first window has been run.
    """

    def __init__(self, audio: Audio, decoding: Decoding, ticket: Ticket) -> None:
        self.audio, self.decoding, self.ticket = audio, decoding, ticket
        self.seconds = ticket.seconds
        self.future: Future[Served] = Future()
        self.cancel = Cancel()
        self.began: float | None = None
        self.has_run = False
        self._dispatch: Dispatch | None = None
        self._may_go_on = threading.Event()

    def take_turn(self, dispatch: Dispatch) -> None:
        """Let its thread run a window."""
        self._dispatch = dispatch
        self._may_go_on.set()

    def give_turn_back(self) -> None:
        """Have its thread wait for another turn, unless it was given up meanwhile; the pool's lock is held."""
        if not self.cancel.called:
            self._may_go_on.clear()

    def turn(self) -> tuple[int, str]:
        """Wait for a turn; return the depth of the window and its reason. Raises `Cancelled` where it was given up."""
        self._may_go_on.wait()
        if self.cancel.called:
            raise Cancelled
        assert self._dispatch is not None
        return self._dispatch.depth, self._dispatch.reason

    def stop(self) -> None:
        """Stop what runs, and have its thread end."""
        self.cancel()
        self._may_go_on.set()

    def recognizing(self, recognize: RecognizeTurn) -> RecognizeStretch:
        """Return what `Decoding.transcribe` calls for each window, which runs it at its turn."""

        def stretch(
            samples: NDArray[np.float32], begin: float, end: float, subset: BlockSubset | None
        ) -> tuple[PassResult, Chunk]:
            return recognize(self, samples, begin, end)

        return stretch
