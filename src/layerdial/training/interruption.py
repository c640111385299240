"""Ctrl-C or SIGTERM in a training run: the step that is being made is finished first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptions() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether SIGINT or SIGTERM came. A second of the same does at once what it always does.

    The other may still come: where a whole job is terminated, one who waits for this process may interrupt it as well.

    In a thread that is not the main one signals never come. One that is ignored stays so, as a shell has SIGINT for
    what runs in the background.
    """
    came = False
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.signal(number, before[signal.Signals(number)])

    here = threading.current_thread() is threading.main_thread()
    noted = [number for number, handler in before.items() if here and handler not in (signal.SIG_IGN, None)]
    for number in noted:
        signal.signal(number, note)
    try:
        yield lambda: came
    finally:
        for number in noted:
            signal.signal(number, before[number])
