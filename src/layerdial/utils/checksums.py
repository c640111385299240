"""Hashes of files that belong together, checked when they are read: one damaged byte is found, not computed with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from layerdial.errors import UserError

State = tuple[str, int, int, int]
_known: dict[State, str] = {}


def state_of(file: Path) -> State:
    """Return what changes when a file does."""
    found = file.stat()
    return str(file.resolve()), found.st_ino, found.st_size, found.st_mtime_ns


def checksum(file: Path) -> str:
    """Return the SHA-256 of a file; of one that has not changed since, without reading it again."""
    state = state_of(file)
    if state not in _known:
        with file.open("rb") as opened:
            _known[state] = hashlib.file_digest(opened, "sha256").hexdigest()
    return _known[state]


def checksums(files: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of files by their names."""
    return {file.name: checksum(file) for file in sorted(files)}


def check_files(folder: Path, expected: object, remedy: str) -> None:
    """Raise `UserError`, which ends with `remedy`, for a file in `folder` whose SHA-256 is not the `expected` one.

    Nothing is expected of a folder that was written before there were any; what is missing is said by its reader.
    """
    if not isinstance(expected, Mapping):
        return
    for name, value in expected.items():
        file = folder / Path(str(name)).name
        if file.is_file() and checksum(file) != value:
            raise UserError(
                f"{file} is damaged or was changed (its SHA-256 is not the one it was written with); {remedy}"
            )
