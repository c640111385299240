"""The signals that interrupt, and a terminal that was closed."""

from __future__ import annotations

import os
import signal
import sys

HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none
INTERRUPTING = (signal.SIGINT, signal.SIGTERM, *([HANGUP] if HANGUP else []))


def drop_terminal() -> None:
    """Let what is still printed on the terminal go nowhere: once it is closed, every line would be an error.

    Output that goes into a file or a pipe is left alone.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if _is_terminal(stream):
            os.dup2(nowhere, stream)
    os.close(nowhere)


def _is_terminal(stream: int) -> bool:
    """Return whether a stream is a terminal, or was one that is closed now (which answers with EIO)."""
    if sys.platform == "win32":
        return False
    import errno
    import termios

    try:
        termios.tcgetattr(stream)
        return True
    except termios.error as error:
        return bool(error.args[0] == errno.EIO)
