"""JSON read within limits: nothing in it makes the reader, or who takes it apart, run out of stack or time."""

from __future__ import annotations

import json
from typing import Any

MOST_BYTES = 256 * 1024 * 1024
_DEEPEST = 100
_MOST_DIGITS = 100  # of integers; transformers writes some of 31


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raises `ValueError` for one that is not valid, or beyond a limit."""
    try:
        value = json.loads(text, parse_int=_integer)
        _check_depth(value)
    except RecursionError:
        raise ValueError(f"it is nested more than {_DEEPEST} deep") from None
    return value


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"it has an integer of {len(digits)} digits")
    return int(digits)


def _check_depth(value: Any, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return
    for inner in value:
        if isinstance(inner, dict | list):
            _check_depth(inner, depth + 1)
