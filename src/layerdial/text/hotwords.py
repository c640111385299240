"""Hotwords: phrases that are more likely to be spoken than a model expects, and their weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from layerdial.errors import UserError

Hotwords = tuple[tuple[str, float], ...]
"""Phrases with their weights: 1 is the usual strength, 0 none."""

_LARGEST_WEIGHT = 3.0  # at 4, a greedy search of Whisper writes nothing but hotwords
_MOST = 10_000  # phrases: a list of names, not a dictionary
_HOW = "a phrase a line, with a weight behind it if it has one: Jane Eyre :1.5"
_NO_LETTER = re.compile(rb"[^a-z0-9\x80-\xff]+")


def letters_of(text: str | bytes) -> bytes:
    """Return what phrases are compared by: letters in lower case and digits, a space for all that is between them.

    So capitals, hyphens, apostrophes and punctuation make no difference. Of `bytes`, letters beyond ASCII stay as they
    are, since a token may have a part of one.
    """
    return _NO_LETTER.sub(b" ", text.lower().encode() if isinstance(text, str) else text.lower())


def hotwords_of(given: Mapping[str, float] | Sequence[str]) -> Hotwords:
    """Return the hotwords of a list of phrases, or of a mapping to weights. Raises `UserError` for other things."""
    if isinstance(given, str | bytes) or not isinstance(given, Mapping | Sequence):
        raise UserError(f"hotwords are {given!r:.60}; give a list of phrases, or a dictionary of phrases and weights")
    pairs = list(given.items() if isinstance(given, Mapping) else ((phrase, 1.0) for phrase in given))
    if len(pairs) > _MOST:
        raise UserError(f"hotwords are {len(pairs)} phrases; give at most {_MOST}")
    return tuple((_checked_phrase(phrase), _checked_weight(phrase, weight)) for phrase, weight in pairs)


def read_hotwords(file: Path) -> dict[str, float]:
    """Return the phrases of a file and their weights, 1 where a line has none.

    Raises `UserError`, with the number of the line, for an empty line, a tab, a phrase without letters or given twice,
    and a weight that is no number from 0 to 3.
    """
    try:
        found = parse_hotwords(_lines(file))
    except _BadLine as problem:
        raise UserError(f"{file}, {problem}") from None
    if not found:
        raise UserError(f"{file} is empty; give {_HOW}")
    return found


def parse_hotwords(lines: Iterable[str]) -> dict[str, float]:
    """Return the phrases of lines and their weights. Raises `UserError` as `read_hotwords` does."""
    found: dict[str, float] = {}
    for number, line in enumerate(lines, 1):
        try:
            phrase, weight = _parsed(line)
            if phrase in found:
                raise UserError(f"{phrase!r} stands there already")
        except UserError as problem:
            raise _BadLine(f"line {number}: {problem}") from None
        found[phrase] = weight
    return found


class _BadLine(UserError):
    """What is wrong with a line, which its message names by its number."""


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"{file} does not exist; give a file of hotwords, {_HOW}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is no UTF-8 text; give a file of hotwords, {_HOW}") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); give a file of hotwords, {_HOW}") from None


def _parsed(line: str) -> tuple[str, float]:
    if "\t" in line:
        raise UserError(f"there is a tab; give {_HOW}")
    if not line.strip():
        raise UserError(f"the line is empty; give {_HOW}")
    phrase, colon, weight = line.rpartition(" :")
    if not colon:
        return _checked_phrase(line), 1.0
    try:
        number = float(weight)
    except ValueError:
        raise UserError(f"the weight {weight!r} is no number; give {_HOW}") from None
    return _checked_phrase(phrase), _checked_weight(phrase, number)


def _checked_phrase(phrase: Any) -> str:
    if not isinstance(phrase, str) or not letters_of(phrase).strip():
        raise UserError(f"the hotword {phrase!r} has no letter or digit; give a word or a phrase")
    return " ".join(phrase.split())


def _checked_weight(phrase: str, weight: Any) -> float:
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= _LARGEST_WEIGHT:
        raise UserError(f"the weight of {phrase!r} is {weight!r}; give a number from 0 to {_LARGEST_WEIGHT:g}")
    return float(weight)
