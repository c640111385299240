"""Ctrl-C, SIGTERM or SIGHUP in a training run: the step being made is finished first, an evaluation is not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from layerdial.utils.hangup import HANGUP, INTERRUPTING, drop_terminal


class InterruptedWait(KeyboardInterrupt):
    """An interruption while a step waited for its data: nothing of that step was made."""


class Interruption:
    """Whether SIGINT, SIGTERM or SIGHUP came; within `at_once` each raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.came = False
        self._noted = False
        self._raises = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For what can be lost. One that came before is raised as well."""
        self._raises = True
        try:
            if self.came:
                raise KeyboardInterrupt
            yield
        finally:
            self._raises = False

    @contextmanager
    def while_waiting(self) -> Iterator[None]:
        """For a wait that may have no end. Raises `InterruptedWait` for one that comes, or that came before."""
        self._raises = True
        try:
            if self._noted:
                raise KeyboardInterrupt
            yield
        except KeyboardInterrupt:
            raise InterruptedWait from None
        finally:
            self._raises = False

    def note(self) -> None:
        """One came."""
        self.came = self._noted = True
        if self._raises:
            raise KeyboardInterrupt


@contextmanager
def interruptions() -> Iterator[Interruption]:
    """Yield what says whether SIGINT, SIGTERM or SIGHUP (the terminal was closed) came.

    A second of the same does at once what it always does.

    The others may still come: where a whole job is terminated, one who waits for this process may interrupt it as well.

    In a thread that is not the main one signals never come. One that is ignored stays so, as a shell has SIGINT for
    what runs in the background and SIGHUP for what `nohup` runs.
    """
    interruption = Interruption()
    before = {number: signal.getsignal(number) for number in INTERRUPTING}

    def note(number: int, frame: FrameType | None) -> None:
        signal.signal(number, before[signal.Signals(number)])
        if number == HANGUP:
            drop_terminal()
        interruption.note()

    here = threading.current_thread() is threading.main_thread()
    noted = [number for number, handler in before.items() if here and handler not in (signal.SIG_IGN, None)]
    for number in noted:
        signal.signal(number, note)
    try:
        yield interruption
    finally:
        for number in noted:
            signal.signal(number, before[number])


@contextmanager
def killed_after(seconds: int) -> Iterator[None]:
    """Have the system kill this process if the context takes longer, which nothing in Python could do from within.

    A process that waits for a network disk that is gone runs no handler, but a signal that kills it ends it. Without
    effect in a thread that is not the main one, and where there is no SIGALRM.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
