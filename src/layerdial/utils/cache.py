"""The folder in which a user's programs keep what they can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path | None:
    """Return `$LAYERDIAL_CACHE`, `$XDG_CACHE_HOME/layerdial` or `~/.cache/layerdial`; none where there is no home."""
    if own := os.environ.get("LAYERDIAL_CACHE"):
        return Path(own)
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "layerdial"
    try:
        return Path.home() / ".cache" / "layerdial"
    except RuntimeError:  # no HOME, and a user that the system does not know
        return None
