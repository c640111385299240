"""Locks between processes: a file is held by one at a time, and free when that one is gone, however it ended.

POSIX record locks: a child does not inherit them, so what outlives a killed process does not go on holding them.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from layerdial.errors import UserError

# Within a process such locks are no obstacle, and closing any handle of the file gives its lock up: what is held here
# is remembered and not opened again.
_held: set[tuple[int, int]] = set()
_guard = threading.Lock()


def _after_fork() -> None:
    global _guard
    _guard = threading.Lock()  # another thread of the parent may have had it
    _held.clear()  # the parent's are not this process'


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@dataclass(frozen=True)
class Held:
    """A lock file that this process holds; `sure` unless the disk or the system has no locks."""

    file: Path
    handle: int
    sure: bool

    def release(self, remove: bool = True) -> None:
        """Free the file, and remove it first."""
        with _guard:
            _held.discard(_identity(os.fstat(self.handle)))
            with suppress(OSError):
                if remove:
                    self.file.unlink()
            os.close(self.handle)


def acquire(file: Path) -> Held | None:
    """Return the lock of `file`, which is made if need be; None while another process, or this one, has it.

    Raises `OSError` where the file cannot be made.
    """
    with _guard:
        while True:
            if file.exists() and _identity(os.stat(file)) in _held:
                return None
            handle = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            locked = _lock(handle)
            if locked is False:
                os.close(handle)
                return None
            with suppress(FileNotFoundError):
                found = _identity(os.fstat(handle))
                if found == _identity(os.stat(file)):
                    _held.add(found)
                    return Held(file, handle, sure=bool(locked))
            os.close(handle)  # who had it has removed it in the meantime


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _lock(handle: int) -> bool | None:
    """Return whether this process has the lock now; None where there are no locks."""
    try:
        import fcntl

        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except (BlockingIOError, PermissionError):
        return False
    except (ModuleNotFoundError, OSError):
        return None


@contextmanager
def holding(folder: Path, what: str, remedy: str) -> Iterator[None]:
    """Hold `folder`, which is made if need be, for this process alone: `.lock` in it says who that is.

    Raises `UserError`, which names `what` the folder is, its holder and the `remedy`, while another process holds it.
    """
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = acquire(folder / ".lock")
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}; choose another place") from None
    if held is None:
        raise UserError(f"{what} {folder} is in use by {_holder(folder / '.lock')}; {remedy}")
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    try:
        with suppress(OSError):  # a full disk: who holds it is then not said
            os.truncate(held.handle, 0)
            os.write(held.handle, f"process {os.getpid()} on {platform.node()}, since {now}".encode())
        yield
    finally:
        held.release()
        for parent in made:  # nothing came of it: leave nothing behind
            with suppress(OSError):
                parent.rmdir()


def _holder(file: Path) -> str:
    """Return who holds a lock, as it wrote there; without opening the file where this process is the holder."""
    with _guard:
        try:
            if _identity(os.stat(file)) in _held:
                return f"this process ({os.getpid()})"
            return file.read_text(encoding="utf-8", errors="replace").strip()[:200] or "another process"
        except OSError:
            return "another process"


def wait_for_lock(file: IO[Any], when_busy: Callable[[], None] = lambda: None) -> None:
    """Wait until no other process holds a lock of an open file, and hold it until the file is closed.

    `when_busy` is called before a wait. Without effect on systems and disks that have no such locks.
    """
    with suppress(ModuleNotFoundError, OSError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            when_busy()
            fcntl.flock(file, fcntl.LOCK_EX)


def is_there(pid: int) -> bool:
    """Whether a process of that number runs on this machine, or in this container."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
