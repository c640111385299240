"""Progress with time left: a bar in a terminal, one line a minute in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

_SECONDS_BETWEEN_LINES = 60.0

Update = Callable[..., None]


@contextmanager
def progress(description: str, total: int | None, done: int = 0) -> Iterator[Update]:
    """Yield `update(done, note="", total=None)`.

    `note` is shown at the end of the line, for example the current loss; `total` can be given later than at the start.
    """
    if not sys.stderr.isatty():
        yield _lines(description, total, done)
    else:
        shown = _bar if find_spec("rich") else _rewritten_line  # devices have no rich
        with shown(description, total, done) as update:
            yield update


@contextmanager
def _bar(description: str, total: int | None, done: int) -> Iterator[Update]:
    with _progress_bars() as bar:
        task = bar.add_task(description, total=total, completed=done, note="")

        def update(done: int, note: str = "", total: int | None = None) -> None:
            bar.update(task, completed=done, total=total)
            if note:
                bar.update(task, note=note)

        yield update


def _progress_bars() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        redirect_stdout=sys.stdout.isatty(),  # what is printed into a file would go to the terminal instead
    )


def _lines(description: str, total: int | None, done: int | None) -> Update:
    """Return an update function that prints lines. `done`: steps of an earlier run; None takes the first update's."""
    start = last = time.monotonic()
    first, finished, known_total = done, False, total

    def update(done: int, note: str = "", total: int | None = None) -> None:
        nonlocal first, last, finished, known_total
        known_total = total = total or known_total
        first = done if first is None else first
        now = time.monotonic()
        ends = total is not None and done >= total and not finished
        if now - last < _SECONDS_BETWEEN_LINES and not ends:
            return
        last, finished = now, finished or ends
        left = ""
        if total and first < done < total:
            left = f", {_clock((now - start) * (total - done) / (done - first))} left"
        print(
            f"{description} {done}/{total or '?'}, {_clock(now - start)} so far{left}  {note}",
            file=sys.stderr,
            flush=True,
        )

    return update


@contextmanager
def _rewritten_line(description: str, total: int | None, done: int) -> Iterator[Update]:
    """Yield an update function that writes one line of a terminal again and again."""
    shown, known_total = -1, total

    def update(done: int, note: str = "", total: int | None = None) -> None:
        nonlocal shown, known_total
        known_total = total or known_total
        if done != shown:
            shown = done
            print(f"\r{description} {done}/{known_total or '?'}  {note}", end="", file=sys.stderr, flush=True)

    try:
        update(done)
        yield update
    finally:
        print(file=sys.stderr)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"


@dataclass(frozen=True)
class Part:
    """One of several jobs that run side by side."""

    name: str
    done: int
    total: int
    note: str = ""


ShowParts = Callable[..., None]


@contextmanager
def side_by_side(description: str) -> Iterator[ShowParts]:
    """Yield `show(done, total, parts, done_note)`: the whole with its time left, and a line for each of `parts`."""
    if not sys.stderr.isatty():
        update = _lines(description, None, None)
        yield lambda done, total, parts, note: update(done, "; ".join([note, *map(_part_line, parts)]), total=total)
        return
    with _progress_bars() as bars:
        whole = bars.add_task(description, total=None, note="")
        tasks: dict[str, Any] = {}

        def show(done: int, total: int, parts: Sequence[Part], note: str) -> None:
            bars.update(whole, completed=done, total=total or None, note=note)
            for gone in tasks.keys() - {part.name for part in parts}:
                bars.remove_task(tasks.pop(gone))
            for part in parts:
                if part.name not in tasks:
                    tasks[part.name] = bars.add_task(f"  {part.name}", total=part.total or None, note="")
                bars.update(tasks[part.name], completed=part.done, total=part.total or None, note=part.note)

        yield show


def _part_line(part: Part) -> str:
    return f"{part.name} {part.done}/{part.total} {part.note}".rstrip()
