"""The table of the models that have names, as `layerdial models` prints it."""

from __future__ import annotations

from collections.abc import Sequence

from layerdial.registry.entries import Entry, read_entries
from layerdial.registry.places import place_of

_HEAD = ("name", "blocks", "WER in % (blocks that run)", "size", "licence", "where")


def models_table() -> list[str]:
    """Return the lines of a table: a row a model, then what each is and on what its WER was measured."""
    entries = list(read_entries().values())
    if not entries:
        return ["the registry of this version is empty; MODEL is a folder then, as layerdial export writes it"]
    rows = [_HEAD, *map(_row, entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, *(f"{entry.name}: {entry.summary}{_measured(entry)}" for entry in entries)]


def _row(entry: Entry) -> Sequence[str]:
    place, folder = place_of(entry)
    where = f"{place}: {folder}" if folder else place
    rates = ", ".join(f"{100 * rate.wer:.1f} ({rate.depth})" for rate in entry.rates) or "not measured"
    return entry.name, str(entry.n_blocks), rates, f"{entry.size / 1e6:.0f} MB", entry.licence, where


def _measured(entry: Entry) -> str:
    return f"; WER on {entry.test_set}, {entry.rates[0].words:,} words" if entry.rates else ""
