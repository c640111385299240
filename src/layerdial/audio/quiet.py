"""libmpg123, inside libsndfile, writes to standard error whatever it dislikes in an MP3; that is kept from the user.

There is no switch for it. While an MP3 is opened or read, what C code takes for standard error leads to a file in
memory; what is not libmpg123's is passed on at the end of that read, which takes milliseconds. With glibc this is the
variable `stderr`, so file descriptor 2, to which Python writes, is left alone. Elsewhere it is that descriptor, and
what another thread writes while it is led back may come late.
"""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

_THEIRS = re.compile(
    rb"^(\[src/libmpg123/|\[.*mpg123.*\] (error|warning)|Note: |Warning: (Xing|Encountered|Cannot|Using|Real)|"
    rb"Hit end of|Giving up).*\n?|^\n",
    re.MULTILINE,
)
_UNBUFFERED = 2  # _IONBF of stdio.h
_MOST_HELD = 1 << 20  # bytes in the file, which would grow with each damaged MP3


class _Variable:
    """glibc's variable `stderr`, led to a file."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        libc.fdopen.argtypes, libc.fdopen.restype = [ctypes.c_int, ctypes.c_char_p], ctypes.c_void_p
        libc.setvbuf.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        self._libc: Any = libc
        self._variable = ctypes.c_void_p.in_dll(libc, "stderr")
        self._own: int | None = None
        self._file: BinaryIO | None = None
        self._stream = 0

    def lead_to(self, file: BinaryIO) -> None:
        if file is not self._file:
            # never closed: another thread may still be about to write to it
            stream = self._libc.fdopen(os.dup(file.fileno()), b"a")
            if not stream:
                raise OSError("no more files")
            self._libc.setvbuf(stream, None, _UNBUFFERED, 0)
            self._stream, self._file = stream, file
        self._own, self._variable.value = self._variable.value, self._stream

    def lead_back(self) -> None:
        self._variable.value = self._own

    def write(self, text: bytes) -> None:
        os.write(2, text)


class _Descriptor:
    """File descriptor 2, led to a file."""

    _kept = 2  # where it led before

    def lead_to(self, file: BinaryIO) -> None:
        self._kept = os.dup(2)
        os.dup2(file.fileno(), 2)

    def lead_back(self) -> None:
        os.dup2(self._kept, 2)
        os.close(self._kept)
        self._kept = 2

    def write(self, text: bytes) -> None:
        os.write(self._kept, text)


class _Hush:
    """Standard error of C code led elsewhere, as long as any thread asks for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = self.passed = 0  # threads, and bytes
        self.held: BinaryIO | None = None
        self.error = _Variable() if _has_glibc() else _Descriptor()

    def begin(self) -> None:
        with self.lock:
            if self.users == 0:
                self.held = self.held or _in_memory()
                self.error.lead_to(self.held)
            self.users += 1

    def end(self) -> None:
        with self.lock:
            if self.users == 0:  # the process was forked in between
                return
            self.users -= 1
            if self.users == 0:
                self.error.lead_back()
            self.pass_on(whole_lines=self.users > 0)

    def pass_on(self, whole_lines: bool) -> None:
        """Write to standard error what came since the last time and is not libmpg123's."""
        assert self.held is not None
        size = os.fstat(self.held.fileno()).st_size
        # pread, because whoever writes shares the position of this file
        came = os.pread(self.held.fileno(), size - self.passed, self.passed)
        if whole_lines:  # others may be in the middle of one
            came = came[: came.rfind(b"\n") + 1]
        self.passed += len(came)
        with suppress(OSError):
            self.error.write(_THEIRS.sub(b"", came))
        if self.users == 0 and self.passed > _MOST_HELD:
            os.lseek(self.held.fileno(), 0, os.SEEK_SET)
            os.ftruncate(self.held.fileno(), 0)
            self.passed = 0

    def begin_anew(self) -> None:
        if self.users:
            self.error.lead_back()
        self.held, self.users, self.passed = None, 0, 0


def _has_glibc() -> bool:
    with suppress(AttributeError, ValueError, OSError):  # no confstr, or another C library
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    return False


def _in_memory() -> BinaryIO:
    if not hasattr(os, "memfd_create"):  # not on Linux
        return tempfile.TemporaryFile(buffering=0)  # type: ignore[return-value]
    return os.fdopen(os.memfd_create("stderr"), "wb+", buffering=0)  # type: ignore[return-value]


_hush = _Hush()


def _after_fork() -> None:
    """A child that another thread forks meanwhile has its own standard error again."""
    _hush.lock = threading.Lock()
    _hush.begin_anew()


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
