"""Notices that are given once, and not at every call of a command."""

from __future__ import annotations

import hashlib
from pathlib import Path

from layerdial.utils.cache import user_cache

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
    """Return the folder of these files; none where the user has no home."""
    cache = user_cache()
    return None if cache is None else cache / "said"
