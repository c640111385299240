"""Notices that are given once, and not at every call of a command."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_said: set[str] = set()


def said_before(notice: str) -> bool:
    """Whether a notice was given, by this process or an earlier one of this user; from now on it was.

    Earlier ones are known by empty files in the user's cache folder; without one, a process knows its own.
    """
    name = hashlib.sha256(notice.encode()).hexdigest()[:16]
    if name in _said:
        return True
    _said.add(name)
    folder = cache_folder()
    if folder is None:
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch(exist_ok=False)
    except FileExistsError:
        return True
    except OSError:
        pass
    return False


def cache_folder() -> Path | None:
    """`$XDG_CACHE_HOME` or `~/.cache`; none where the user has no home."""
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "layerdial" / "said"
    try:
        return Path.home() / ".cache" / "layerdial" / "said"
    except RuntimeError:  # no HOME, and a user that the system does not know
        return None
