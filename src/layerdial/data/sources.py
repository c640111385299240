"""What a manifest may name as audio: files, and samples in memory.

lhotse knows other sources too, shell commands and addresses among them, and takes them from wherever a recording may
stand in a cut: in the cut, in the tracks of a mix, in the impulse response of a transform, in custom fields. Nothing
here opens anything; it is asked before anything is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerdial.errors import UserError

_ALLOWED = ("file", "memory")
_MOST_PARTS = 1_000_000  # of one cut: far above any mix, far below what fills memory


def check_sources(record: Any, where: str) -> None:
    """Raise `UserError`, which begins with `where`, for a source that is neither a file nor samples in memory."""
    for source in _sources(record, where):
        kind = source.get("type")
        if kind not in _ALLOWED:
            raise UserError(
                f"{where} has an audio source of type {str(kind)[:40]!r}, which is never opened; "
                "save the audio as a file and name that"
            )


def check_files(record: Any, where: str) -> None:
    """Raise `UserError`, which begins with `where`, for a file source that is no regular file (a pipe, a device)."""
    check_sources(record, where)
    for source in _sources(record, where):
        path = source.get("source")
        if source.get("type") == "file" and not (isinstance(path, str) and "\0" not in path and Path(path).is_file()):
            raise UserError(f"{where} names {str(path)[:200]}, which is not a file; prepare the corpus again")


def _sources(record: Any, where: str) -> Iterator[dict[Any, Any]]:
    """Yield every object in a list called `sources`, at any depth; without recursion, which depth could exhaust."""
    waiting, parts = [record], 0
    while waiting:
        value = waiting.pop()
        parts += 1
        if parts > _MOST_PARTS:
            raise UserError(f"{where} has more than {_MOST_PARTS:,} parts; is it a cut?")
        if isinstance(value, dict):
            found = value.get("sources")
            if isinstance(found, list | tuple):
                yield from (source for source in found if isinstance(source, dict))
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
