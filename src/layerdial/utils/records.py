"""JSON files with a version, read with one kind of message for missing and damaged files and other versions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layerdial.errors import UserError
from layerdial.utils.files import read_json


def read_record(file: Path, remedy: str, **expected: Any) -> dict[str, Any]:
    """Return the object in `file`, whose keys `expected` (such as `format=1`) have these values.

    Raises `UserError`, which ends with `remedy`, for a file that is missing, no JSON object, or of another version.
    """
    stored = read_json(file)
    if not isinstance(stored, dict):
        raise UserError(f"{file} is damaged (it holds no JSON object); {remedy}")
    for key, value in expected.items():
        if stored.get(key) != value:
            raise UserError(f"{file} has {key} {stored.get(key)!r}; this layerdial reads {key} {value!r}; {remedy}")
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
