"""The depth of each file: the request's, or with `--finish-by` what keeps the time, re-chosen as files are done."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from layerdial.audio.files import probe
from layerdial.bulk.finish import Ahead, FinishBy
from layerdial.bulk.manifest import Task
from layerdial.errors import UserError
from layerdial.recognizer import Recognizer
from layerdial.request import Request
from layerdial.runtime.recognizer import OnnxRecognizer
from layerdial.utils.rows import Row

Note = Callable[[str], None]


class Depths:
    """The request for each file, as it is given."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def request(self, task: Task) -> Request:
        """Return the request for the next file."""
        return self._request

    def done(self, row: Row, took_s: float) -> None:
        """Note what a file gave, and how long a worker had it."""


class DepthsInTime(Depths):
    """The request for each file, at the deepest depth with which all are done by `end`; any thread may ask.

    A change is noted in one line, and so is a time that can no longer be kept. Raises `UserError` where not even the
    shallowest keeps it.
    """

    def __init__(self, request: Request, plan: FinishBy, ahead: Ahead, end: datetime, note: Note) -> None:
        super().__init__(request)
        self._plan, self._ahead, self._end, self._note = plan, ahead, end, note
        self._lock = threading.Lock()
        self._said: tuple[int, bool] | None = None
        first = plan.choose(self._left(), ahead.rows, ahead.seconds)
        if not first.kept:
            raise UserError(
                f"--finish-by {_clock(end)} cannot be kept: the shallowest depth, {first.option.depth}, needs about "
                f"{_hours(first.seconds)} for {self._amount()}; give a later time or more machines"
            )

    def request(self, task: Task) -> Request:
        """Return the request for the next file, at the depth that keeps the time now."""
        with self._lock:
            choice = self._plan.choose(self._left(), self._ahead.rows, self._ahead.seconds)
            if self._said != (now := (choice.option.depth, choice.kept)):
                self._said = now
                until = f"by {_clock(self._end)}" if choice.kept else f"which is after {_clock(self._end)}"
                least = "" if choice.kept else "the shallowest, "
                self._note(
                    f"depth {choice.option.depth}: {least}{self._amount()} left need {_hours(choice.seconds)}, {until}"
                )
            self._ahead.taken(task)
        return replace(self._request, depth=choice.option.depth)

    def done(self, row: Row, took_s: float) -> None:
        """Note what a file gave, and how long a worker had it."""
        if "error" not in row:
            with self._lock:
                self._plan.observe(row["depth"], row["audio_seconds"], took_s)

    def _left(self) -> float:
        return self._end.timestamp() - time.time()

    def _amount(self) -> str:
        return f"{_hours(self._ahead.seconds)} of audio in {self._ahead.rows} files"


def depths_in_time(
    recognizer: Recognizer, request: Request, tasks: Iterable[Task], end: datetime, workers: int
) -> DepthsInTime:
    """Return the depths that keep a time. Raises `UserError` for a torch model, whose costs are not known."""
    for name in ("depth", "subset", "deadline_ms", "target_rtf", "max_cpu", "confidence"):
        if getattr(request, name) is not None:
            raise UserError(f"--finish-by chooses the depth; it excludes {name}")
    if not isinstance(recognizer, OnnxRecognizer):
        raise UserError(f"--finish-by needs an exported model: layerdial export {recognizer.name} OUT")
    ahead = Ahead(tasks)
    ahead.probed([_seconds(task) for task in ahead.sample])
    plan = FinishBy(recognizer.controller.costs, recognizer.controller.options, workers)
    return DepthsInTime(
        request, plan, ahead, end, lambda text: print(f"layerdial: {text}", file=sys.stderr, flush=True)
    )


def _seconds(task: Task) -> float:
    """Return the length of a file; none for one that cannot be read, which takes no time either."""
    try:
        return probe(Path(task.file)).seconds
    except UserError:
        return 0.0


def _clock(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M")


def _hours(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
