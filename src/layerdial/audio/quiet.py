"""libmpg123, inside libsndfile, writes to standard error whatever it dislikes in an MP3; that is kept from the user.

There is no switch for it. While an MP3 is opened or read, file descriptor 2 leads to a file in memory; what others
wrote meanwhile is passed on at the end of that read, which takes milliseconds.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

_THEIRS = re.compile(
    rb"^(\[src/libmpg123/|\[.*mpg123.*\] (error|warning)|Note: |Warning: (Xing|Encountered|Cannot|Using|Real)|"
    rb"Hit end of|Giving up).*\n?|^\n",
    re.MULTILINE,
)


class _Hush:
    """Descriptor 2 led elsewhere, as long as any thread asks for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.kept = -1  # where descriptor 2 led before
        self.held: BinaryIO | None = None

    def begin(self) -> None:
        with self.lock:
            if self.users == 0:
                self.kept = os.dup(2)
                self.held = _in_memory()
                os.dup2(self.held.fileno(), 2)
            self.users += 1

    def end(self) -> None:
        with self.lock:
            self.users -= 1
            if self.held is None:
                return
            if self.users == 0:
                os.dup2(self.kept, 2)
            self.held.seek(0)
            others = _THEIRS.sub(b"", self.held.read())
            os.ftruncate(self.held.fileno(), 0)
            self.held.seek(0)
            with suppress(OSError):
                os.write(self.kept, others)
            if self.users == 0:
                self.restore()

    def restore(self) -> None:
        if self.held is not None:
            os.dup2(self.kept, 2)
            os.close(self.kept)
            self.held.close()
        self.held, self.users = None, 0


def _in_memory() -> BinaryIO:
    if not hasattr(os, "memfd_create"):  # not on Linux
        return tempfile.TemporaryFile(buffering=0)  # type: ignore[return-value]
    return os.fdopen(os.memfd_create("stderr"), "wb+", buffering=0)  # type: ignore[return-value]


_hush = _Hush()


def _after_fork() -> None:
    """A child that another thread forks meanwhile has its own standard error again."""
    _hush.lock = threading.Lock()
    _hush.restore()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def without_decoder_notes(wanted: bool = True) -> Iterator[None]:
    """Keep what libmpg123 writes from standard error in this block, in any thread."""
    if not wanted:
        yield
        return
    try:
        _hush.begin()
    except OSError:  # no standard error, or no more files
        yield
        return
    try:
        yield
    finally:
        _hush.end()
