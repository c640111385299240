"""Batches made in worker processes that are watched: where they wait for a disk that is gone, the run says so and ends.

The first process looks at what they read when no batch has come for some seconds. Batches come through /dev/shm, and
where that is full through a pipe.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

from torch.utils.data import DataLoader, Dataset

from layerdial.data.loading import Reading
from layerdial.data.now_reading import NowReading, names_in
from layerdial.errors import UserError
from layerdial.utils.parent import end_with_parent

_LOOK = 5.0  # seconds between two looks at what the workers do
_SAY = 30.0  # seconds at the same files until a line says so; then twice as long each time
_log = logging.getLogger(__name__)


class StalledRead(UserError):
    """No batch came, because files could not be read."""


def load_ahead(
    dataset: Dataset[Any], sampler: Any, reading: Reading, patience: float, pin_memory: bool = False
) -> Iterator[Any]:
    """Return what `dataset` makes of the items of `sampler`, in order, from workers that start now.

    When the workers have been at the same files for `patience` seconds (0: for ever) and no batch came, raises
    `StalledRead`; lines in the log come before. Without workers nobody watches.
    """
    workers = reading["num_workers"]
    files = NowReading(workers)
    loader = DataLoader(
        _Sending(dataset) if workers else dataset,
        sampler=sampler,
        batch_size=None,
        **reading,
        timeout=_LOOK if workers else 0,
        worker_init_fn=partial(_begin, files),
        pin_memory=pin_memory,
    )
    # begun now: a DataLoader draws from torch's generator at its start, which in a step would change its dropout
    return _watched(iter(loader), files, patience)


@dataclass(frozen=True)
class _Sent:
    """What a worker made, as bytes; the contents of tensors may lie in /dev/shm."""

    content: bytes

    def open(self) -> Any:
        return pickle.loads(self.content)

    def pin_memory(self) -> Any:
        """Return what was made in page-locked memory. torch's DataLoader calls this when it pins."""
        made = self.open()
        return made.pin_memory() if hasattr(made, "pin_memory") else made


class _Sending(Dataset[_Sent]):
    """A dataset of a worker whose items are packed here and now.

    torch would do that in a thread, which loses what it cannot pack, as where /dev/shm is full: the run would wait for
    ever.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitem__(self, item: Any) -> _Sent:
        made = self._dataset[item]
        try:
            return _Sent(bytes(ForkingPickler.dumps(made)))
        except (RuntimeError, OSError) as error:  # no space, or too many open files
            _say_why(re.sub(r" for file <[^>]*>", "", " ".join(str(error).split())))
            return _Sent(pickle.dumps(made))


@cache
def _say_why(reason: str) -> None:
    _log.warning("batches go through a pipe, which takes longer: %s", reason)


def _begin(files: NowReading, worker: int) -> None:
    """Make this process a worker: in a process group of its own, with its place in `files`, and not without its parent.

    Signals to the run's group come from `timeout` or a batch system. They would end workers before the run, and torch
    ends a run at once, in the middle of a step, when a worker ends.
    """
    files.begin(worker)
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()
    end_with_parent()


def _watched(batches: Iterator[Any], files: NowReading, patience: float) -> Iterator[Any]:
    while True:
        try:
            batch = _next(batches, files, patience)
        except StopIteration:
            return
        yield batch


def _next(batches: Iterator[Any], files: NowReading, patience: float) -> Any:
    """Return the next batch. torch raises an error after each `_LOOK`, and can be asked again."""
    waited, say_at, before = 0.0, _SAY, b""
    while True:
        try:
            batch = next(batches)
            return batch.open() if isinstance(batch, _Sent) else batch
        except RuntimeError as error:
            if "DataLoader timed out" not in str(error):
                raise
        now = files.snapshot()
        if now != before:  # files are read, if slowly
            waited, say_at, before = 0.0, _SAY, now
        waited += _LOOK
        if patience and waited >= patience:
            raise StalledRead(
                f"no batch for {waited:g} s, {_told(now)}; is the disk there? data.read_timeout is {patience:g} s"
            )
        if waited >= say_at:
            say_at = 2 * waited
            end = f"; the run ends after {patience:g} s (data.read_timeout)" if patience else ""
            _log.warning("no batch for %g s, %s%s", waited, _told(now), end)


def _told(snapshot: bytes) -> str:
    names = names_in(snapshot)
    if not names:
        return "and no worker reads a file"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"workers wait for {', '.join(names[:3])}{more}"
