"""What is known of each model that has a name, as `known.json` in this folder says it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from layerdial.utils.records import parsing, read_record, write_record

FORMAT = 1
FILE = Path(__file__).with_name("known.json")
_REMEDY = "install layerdial again"
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST = 10**11


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file of a model's folder: its size in bytes and its SHA-256."""

    name: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        _match("a file's name", self.name, _FILE_NAME)
        _match("sha256", self.sha256, _SHA256)
        _between("size", self.size, 1, _LARGEST)


@dataclass(frozen=True, slots=True)
class Rate:
    """The word errors at one depth, among so many words of the test set."""

    depth: int
    errors: int
    words: int

    def __post_init__(self) -> None:
        _between("depth", self.depth, 1, 1000)
        _between("words", self.words, 1, 10**9)
        _between("errors", self.errors, 0, 10**9)

    @property
    def wer(self) -> float:
        return self.errors / self.words


@dataclass(frozen=True, slots=True)
class Entry:
    """A model: `rates` were measured on `test_set`, deepest first; `source` is the URL of its folder, or empty."""

    name: str
    summary: str
    licence: str
    n_blocks: int
    test_set: str
    rates: tuple[Rate, ...]
    source: str
    files: tuple[ModelFile, ...]

    def __post_init__(self) -> None:
        _match("name", self.name, _NAME)
        _between("n_blocks", self.n_blocks, 1, 1000)
        if not all(type(text) is str for text in (self.summary, self.licence, self.test_set)):
            raise ValueError("summary, licence and test_set are texts")
        if self.source and not re.match(r"https?://", self.source):
            raise ValueError(f"source is {self.source!r}, expected https://... or nothing")
        if "manifest.json" not in (names := [file.name for file in self.files]) or len(set(names)) < len(names):
            raise ValueError(f"files are {names}, expected manifest.json and others, each once")
        if any(rate.depth > self.n_blocks for rate in self.rates):
            raise ValueError(f"a rate is of a depth above {self.n_blocks}")

    @property
    def size(self) -> int:
        """The bytes of all its files."""
        return sum(file.size for file in self.files)

    @property
    def version(self) -> str:
        """A short hash of its files: another one under the same name has another."""
        digests = "".join(sorted(f"{file.name} {file.sha256}\n" for file in self.files))
        return hashlib.sha256(digests.encode()).hexdigest()[:12]


def read_entries() -> dict[str, Entry]:
    """Return all entries by name. Raises `UserError` where the file is damaged or says something unknown."""
    stored = read_record(FILE, _REMEDY, format=FORMAT)
    with parsing(FILE, _REMEDY):
        if unknown := stored.keys() - {"format", "models"}:
            raise ValueError(f"unknown key {min(unknown)}")
        return {entry.name: entry for entry in map(_parse, stored["models"])}


def write_entries(entries: Iterable[Entry]) -> None:
    """Replace the file by these entries."""
    models = [asdict(entry) for entry in sorted(entries, key=lambda entry: entry.name)]
    write_record(FILE, {"format": FORMAT, "models": models})


def _parse(stored: Mapping[str, Any]) -> Entry:
    rates = tuple(Rate(**rate) for rate in stored["rates"])
    files = tuple(ModelFile(**file) for file in stored["files"])
    return Entry(**{**stored, "rates": rates, "files": files})


def _match(what: str, value: Any, pattern: re.Pattern[str]) -> None:
    if type(value) is not str or not pattern.fullmatch(value):
        raise ValueError(f"{what} is {value!r}, expected {pattern.pattern}")


def _between(what: str, value: Any, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{what} is {value!r}, expected a whole number from {least} to {most}")
