"""Temporary folders that do not outlive their process: each is locked, and what a killed one left is removed.

Beside the file that is being written (`.NAME.RANDOM.tmp`), or where the system keeps such things.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from layerdial.utils.locks import acquire, is_there

_IN_USE = ".in-use"
_LIKELY_DEAD_S = 3600.0  # of a folder that is not locked: its process was killed between making and locking it


@contextmanager
def temporary_folder(place: Path | None = None, name: str = "layerdial") -> Iterator[Path]:
    """Yield a new folder in `place` (default: the system's for such things), and remove it with all that is in it.

    Those that killed processes left in `place` are removed first. Raises `OSError` where none can be made.
    """
    place = place or Path(tempfile.gettempdir())
    remove_abandoned(place, name)
    folder = Path(tempfile.mkdtemp(prefix=f".{name[:200]}.", suffix=".tmp", dir=place))
    held = None
    try:
        held = acquire(folder / _IN_USE)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            held.release()


def remove_abandoned(place: Path, name: str) -> None:
    """Remove the temporary folders of processes that are gone, and what earlier versions left for `name`."""
    earlier = re.compile(rf"\.{re.escape(name)}\.(\d+)\.tmp")  # the number of the process stood in the name
    with suppress(OSError):
        for entry in sorted(os.listdir(place)):
            if entry.startswith(".") and entry.endswith(".tmp"):
                found = earlier.fullmatch(entry)
                _remove_if_abandoned(place / entry, int(found[1]) if found else None)


def _remove_if_abandoned(path: Path, pid: int | None) -> None:
    with suppress(OSError):
        found = path.lstat()
        if found.st_uid != getattr(os, "getuid", lambda: found.st_uid)():
            return
        if pid is not None and (pid == os.getpid() or not is_there(pid)):
            remove(path)
        elif (path / _IN_USE).is_file():
            held = acquire(path / _IN_USE)
            if held is not None and held.sure:
                remove(path)
            if held is not None:
                held.release(remove=held.sure)
        elif path.is_dir() and not os.listdir(path) and time.time() - found.st_mtime > _LIKELY_DEAD_S:
            path.rmdir()


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):  # whatever stands in the way is reported by what follows
        path.unlink(missing_ok=True)
