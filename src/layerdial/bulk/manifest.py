"""The manifest of files to transcribe and the rows that are there already, read in memory of some bytes a file."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdial.errors import UserError
from layerdial.utils.limited_json import parse_json
from layerdial.utils.rows import Row, iter_rows

_REMEDY = 'give rows such as {"file": "a.wav"}, and "id" and "duration" (seconds) where they are known'


@dataclass(frozen=True, slots=True)
class Task:
    """A file to transcribe: its place in the manifest, and its length in seconds where the manifest says it."""

    number: int
    file: str
    id: str | int | None = None
    duration: float | None = None

    @property
    def key(self) -> str:
        """The name by which its row is found again."""
        return _key(self.file, self.id)

    @property
    def named(self) -> Row:
        """What its row begins with."""
        return {"file": self.file} if self.id is None else {"id": self.id, "file": self.file}


class Work:
    """The files of a manifest that have no row in `out`. Raises `UserError` for a manifest or rows that cannot be used.

    A file is known by 64 bits of a hash: a million of them take 9 MB. `foreign` counts rows of other files, `failed`
    those that are errors.
    """

    def __init__(self, manifest: Path, out: Path, model: str) -> None:
        self.manifest, self.failed = manifest, 0
        keys = _hashes(task.key for task in read_tasks(manifest))
        if not len(keys):
            raise UserError(f"{manifest} has no rows; {_REMEDY}")
        _check_unique(keys, manifest, (task.key for task in read_tasks(manifest)))
        there = _hashes(self._known(out, model))
        _check_unique(there, out, self._known(out, model))
        self._done: NDArray[np.bool_] = np.isin(keys, there)
        self.total, self.done = len(keys), int(self._done.sum())
        self.foreign = len(there) - self.done

    @property
    def left(self) -> int:
        """How many files have no row."""
        return self.total - self.done

    def tasks(self) -> Iterator[Task]:
        """Yield the files that have no row, in the order of the manifest."""
        for task in islice(read_tasks(self.manifest), self.total):  # rows may be added meanwhile
            if not self._done[task.number]:
                yield task

    def _known(self, out: Path, model: str) -> Iterator[str]:
        """Yield the keys of the rows that are there; count the errors.

        Raises `UserError` for rows of another kind, or of another model.
        """
        self.failed = 0
        for number, row in enumerate(iter_rows(out), start=1):
            if not isinstance(file := row.get("file"), str):
                raise UserError(f"{out}, row {number}: it is none of a bulk transcription; give another --out")
            if (other := row.get("model")) != model:
                raise UserError(f"{out} has rows of the model {other}, not {model}; give another --out, or that model")
            self.failed += "error" in row
            yield _key(file, row.get("id"))


def read_tasks(manifest: Path) -> Iterator[Task]:
    """Yield the files of a manifest. Raises `UserError` for a line that is none, with its number."""
    try:
        with manifest.open("rb") as file:
            number = 0
            for line, text in enumerate(file, start=1):
                if text.strip():
                    yield _task(text, number, f"{manifest}, line {line}")
                    number += 1
    except FileNotFoundError:
        raise UserError(f"{manifest} does not exist; give a file of JSON lines") from None
    except OSError as error:
        raise UserError(f"{manifest} cannot be read: {error.strerror or error}") from None


def _task(text: bytes, number: int, where: str) -> Task:
    try:
        row = parse_json(text)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object, found {text[:40]!r}; {_REMEDY}")
    file, name, duration = row.get("file"), row.get("id"), row.get("duration")
    if not (isinstance(file, str) and file):
        raise UserError(f"{where}: file is {_shown(file)}; {_REMEDY}")
    if name is not None and (isinstance(name, bool) or not isinstance(name, str | int)):
        raise UserError(f"{where}: id is {_shown(name)}; give a text or an integer, or leave it out")
    if duration is not None and not _is_length(duration):
        raise UserError(f"{where}: duration is {_shown(duration)}; give seconds, or leave it out")
    return Task(number, file, name, None if duration is None else float(duration))


def _is_length(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _shown(value: Any) -> str:
    return "missing" if value is None else repr(value)[:40]


def _key(file: str, name: str | int | None) -> str:
    return f"file {file}" if name is None else f"id {name}"


def _hashes(keys: Iterator[str]) -> NDArray[np.uint64]:
    found = array("Q")
    for key in keys:
        found.append(int.from_bytes(_digest(key), "little"))
    return np.array(found, np.uint64)


def _digest(key: str) -> bytes:
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _check_unique(hashes: NDArray[np.uint64], path: Path, keys: Iterator[str]) -> None:
    """Raise `UserError` where two rows of a file are of the same recording."""
    values, counts = np.unique(hashes, return_counts=True)
    if len(values) == len(hashes):
        return
    twice = set(map(int, values[counts > 1][:1]))
    name = next(key for key in keys if int.from_bytes(_digest(key), "little") in twice)
    raise UserError(f"{path} has more than one row for {name}; leave one, or give each an id")
