"""A CSV table whose rows are what they seem: nothing is cut off, shifted or run together in silence."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from layerdial.errors import UserError

_SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "vertical bars"}


class TableRow(NamedTuple):
    """A row: the line where it begins, its fields by column, and why it cannot be used ("" if it can)."""

    line: int
    fields: dict[str, str]
    problem: str = ""


def read_table(table: Path, needed: Sequence[str], why: str = "") -> Iterator[TableRow]:
    """Yield the rows of a CSV table in UTF-8 that has the columns `needed`; `why` explains a column that is missing.

    A row with fewer fields than the header brings a problem. Raises `UserError`, naming the line, for a table that
    cannot be meant as it reads: more fields than columns, quotes that stay open, NUL bytes.
    """
    lines = csv.reader(StringIO(_text_of(table), newline=""), strict=True)
    columns: list[str] | None = None
    while True:
        begins = lines.line_num + 1
        try:
            fields = next(lines, None)
        except csv.Error as error:
            raise UserError(
                f"{table}, line {begins}: its quotes do not close as they should ({error}); write a text that has "
                'quotes or commas as "…", with "" for a quote in it'
            ) from None
        if fields is None:
            break
        if not fields:  # a blank line
            continue
        if columns is None:
            columns = fields
            _check_columns(table, columns, needed, why)
        else:
            _check_lines(table, fields, begins, lines.line_num)
            yield _row(table, columns, fields, begins)
    if columns is None:
        _check_columns(table, [], needed, why)


def _text_of(table: Path) -> str:
    try:
        content = table.read_bytes()
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise UserError(f"{table} is in UTF-16; save it as CSV in UTF-8")
        if (at := content.find(b"\0")) >= 0:
            line = content.count(b"\n", 0, at) + 1
            raise UserError(f"{table}, line {line}: there is a NUL byte, so it is no CSV file in UTF-8; write it again")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{table} is not a CSV file in UTF-8 ({error.reason} in line {line})") from None
    except OSError as error:
        raise UserError(f"{table} cannot be read: {error.strerror or error}") from None


def _check_columns(table: Path, columns: Sequence[str], needed: Sequence[str], why: str) -> None:
    missing = [column for column in needed if column not in columns]
    if missing:
        found = ", ".join(repr(column) if column != column.strip() else column for column in columns)
        raise UserError(
            f"{table} lacks the column {', '.join(missing)}{why}; found {found or 'no columns at all'}"
            + _hint(columns, missing)
        )
    if twice := next((column for column in needed if columns.count(column) > 1), None):
        raise UserError(f"{table} has the column {twice} {columns.count(twice)} times; keep one")


def _hint(columns: Sequence[str], missing: Sequence[str]) -> str:
    for sign, name in _SEPARATORS.items():
        if len(columns) == 1 and sign in columns[0]:
            return f", separated by {name}; separate columns by commas"
    plain = [column.strip().lower() for column in columns]
    if set(missing) & set(plain):
        return "; write column names in small letters and without blanks around them"
    return ""


def _check_lines(table: Path, fields: Sequence[str], begins: int, ends: int) -> None:
    if any("\n" in field or "\r" in field for field in fields):
        raise UserError(
            f"{table}, line {begins}: a field goes on to line {ends}; a quote was opened and not closed, or the text "
            "has line breaks; keep each row on a line of its own"
        )


def _row(table: Path, columns: Sequence[str], fields: list[str], line: int) -> TableRow:
    if any(field.strip() for field in fields[len(columns) :]):
        raise UserError(
            f"{table}, line {line}: the row has {len(fields)} fields, the header {len(columns)}; "
            f'write a text that has commas in quotes: "{",".join(fields[1 : len(fields) - len(columns) + 2])[:60]}"'
        )
    problem = f"its row has {len(fields)} of {len(columns)} fields" if len(fields) < len(columns) else ""
    return TableRow(line, dict(zip(columns, fields, strict=False)), problem)
