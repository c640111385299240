"""What rows say of a search that is not greedy."""

from __future__ import annotations

import hashlib
from pathlib import Path

from layerdial.recognizer import Recognizer
from layerdial.request import Request
from layerdial.subset import Blocks
from layerdial.utils.checksums import checksum
from layerdial.utils.rows import Row

SEARCH = "search"
SEARCH_KEYS = (SEARCH, "search_sha256", "beams", "lm_weight", "word_bonus")  # identify a measurement


def searches_of(request: Request | None) -> list[Request | None]:
    """Return the searches that a sweep measures: the greedy one (None), and that of `request` if it is another."""
    return [None] if request is None or not request.searches else [None, request]


def search_labels(recognizer: Recognizer, request: Request | None, subset: Blocks) -> Row:
    """Return what a row says of a request's search with a subset: nothing where it is greedy.

    `search` names it alike at every depth. `search_sha256` is of the contents of its files; the weights are those of
    the depth, where some were tuned.
    """
    if request is None or not request.searches:
        return {}
    asked = recognizer.settled(request, subset)
    files = [checksum(Path(request.lm))] if request.lm is not None else []
    files += [] if request.hotwords is None else [repr(request.hotwords)]
    contents = hashlib.sha256(" ".join(files).encode()).hexdigest()[:16]
    values = {name: getattr(asked, name) for name in SEARCH_KEYS[2:] if getattr(asked, name) is not None}
    return {SEARCH: _name(request), "search_sha256": contents, **values}


def _name(request: Request) -> str:
    parts = [f"lm {Path(request.lm).name}"] if request.lm is not None else []
    if request.hotwords is not None:
        parts.append(f"{len(request.hotwords)} hotword{'s' * (len(request.hotwords) != 1)}")
    parts += [f"{request.beams} beams"] if request.beams is not None else []
    return ", ".join(parts)
