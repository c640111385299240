"""JSON files with a version, read with one kind of message for missing and damaged files and other versions.

Those that `write_record` wrote carry a hash of themselves: one changed digit is found, and not computed with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layerdial.errors import UserError
from layerdial.utils.files import read_json, write_json

_HASH = "record_sha256"  # `sha256` of a manifest holds the hashes of other files


def write_record(file: Path, record: Mapping[str, Any]) -> None:
    """Replace `file` by an object as JSON, in one step, with a hash of it under the key `record_sha256`."""
    write_json(file, {**record, _HASH: _hash(json.loads(json.dumps(record)))})


def _hash(record: Mapping[str, Any]) -> str:
    """Return the hash of what JSON gives back, so that neither blanks nor the order of keys count."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def read_record(file: Path, remedy: str, **expected: Any) -> dict[str, Any]:
    """Return the object in `file`, whose keys `expected` (such as `format=1`) have these values.

    Raises `UserError`, which ends with `remedy`, for a file that is missing, no JSON object, of another version, or not
    as `write_record` wrote it.
    """
    stored = read_json(file)
    if not isinstance(stored, dict):
        raise UserError(f"{file} is damaged (it holds no JSON object); {remedy}")
    for key, value in expected.items():
        if stored.get(key) != value:
            raise UserError(f"{file} has {key} {stored.get(key)!r}; this layerdial reads {key} {value!r}; {remedy}")
    if (noted := stored.pop(_HASH, None)) is not None and noted != _hash(stored):
        raise UserError(
            f"{file} is damaged or was changed (its SHA-256 is not the one it was written with); {remedy}, or remove "
            f"its key {_HASH} if it is meant to be so"
        )
    return stored


@contextmanager
def parsing(file: Path, remedy: str) -> Iterator[None]:
    """Convert errors from taking a record apart to a `UserError` that names the file and the remedy."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{file} is damaged ({error!r}); {remedy}") from error
    except UserError as error:
        raise UserError(f"{file} is damaged ({error}); {remedy}") from error


def between(name: str, value: Any, least: int, most: int) -> int:
    """Return a value of a record that is a whole number within bounds. Raises `ValueError` for any other."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}, expected a whole number from {least} to {most}")
    return value
