"""Rows of JSON that survive a kill: appended one by one, each complete or not there at all."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from layerdial.errors import UserError
from layerdial.utils.files import json_text
from layerdial.utils.limited_json import parse_json
from layerdial.utils.locks import wait_for_lock

Row = dict[str, Any]
_log = logging.getLogger(__name__)


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add `row` to a file of JSON lines and flush it to disk: after a kill the row is complete, or not there at all.

    Numbers that JSON does not have (NaN, infinity) become null. A line torn by an earlier kill is removed first. Raises
    `UserError` when the place is read-only or full; what was written before stays.
    """
    line = (json_text(_plain(row)) + "\n").encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            wait_for_lock(file)  # two sweeps may write to one file
            whole, torn = _rows_end(file)
            if _object(torn) is not None:  # only its line break is missing
                whole, line = whole + len(torn), b"\n" + line
            file.truncate(whole)
            try:
                if file.write(line) != len(line):
                    raise OSError(None, "no space left on device")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(whole)
                raise
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free the disk or choose another place"
        ) from error


def _rows_end(file: Any) -> tuple[int, bytes]:
    """Return the position behind the last line break, and what a kill left after it."""
    torn = b""
    end = int(file.seek(0, os.SEEK_END))
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        piece = file.read(end - start)
        if (found := piece.rfind(b"\n")) >= 0:
            return start + found + 1, piece[found + 1 :] + torn
        end, torn = start, piece + torn
    return 0, torn


def read_rows(path: Path) -> list[Row]:
    """Return all rows of a file of JSON lines; none if it does not exist. Warns and raises as `iter_rows` does."""
    return list(iter_rows(path))


def iter_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file of JSON lines, which may be larger than the memory; none if it does not exist.

    A torn last line is left out with a warning. Raises `UserError` for a line that is no JSON object.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if (row := _object(line)) is not None:
                    yield row
                elif line.strip() and not line.endswith(b"\n"):
                    _log.warning("%s: the last line was torn by an interruption and is left out", path)
                elif line.strip():
                    found = line.rstrip(b"\n")[:40]
                    raise UserError(f"{path}, line {number}: expected a JSON object, found {found!r}; remove the line")
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _object(line: bytes) -> Row | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):  # a numpy number
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
