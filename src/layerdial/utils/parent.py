"""The end of a worker process with the process that started it, however that one ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time


def end_with_parent(seconds_to_save: float = 0.0) -> None:
    """Watch the parent in a thread; when it is gone, interrupt this process, and kill it after `seconds_to_save`.

    With 0 seconds it is ended at once, without an interrupt.
    """
    threading.Thread(target=_watch, args=(seconds_to_save,), daemon=True).start()


def follow_parent() -> None:
    """Make a worker ignore interrupts, which its parent handles, and end with its parent even if that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def _watch(seconds_to_save: float) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a process that multiprocessing started has a parent to watch"
    parent.join()
    if seconds_to_save:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(seconds_to_save)
    os._exit(1)
