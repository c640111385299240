"""Word and character errors as counts that can be summed, and confidence intervals of their rates.

Error rates of utterances are never averaged: counts are summed over the corpus, then divided once. Intervals come from
the bootstrap over utterances, since the words of one utterance are not independent of each other. The method is that of
Bisani & Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from layerdial.errors import UserError

Unit = Literal["word", "char"]
_DRAWS_AT_ONCE = 4_000_000  # bounds the memory of a bootstrap over a very large corpus to about 100 MB


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """The counts of an alignment of hypothesis and reference, in words or in characters."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def words(self) -> int:
        """Units (words or characters) in the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per reference unit, a fraction. Without reference units: infinity, or NaN if nothing was inserted."""
        if self.words == 0:
            return float("inf") if self.errors else float("nan")
        return self.errors / self.words

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


def count_errors(reference: str, hypothesis: str, unit: Unit = "word") -> ErrorCounts:
    """Align two normalised texts at the smallest edit distance and count; runs of spaces count as one space.

    An empty hypothesis is all deletions, an empty reference all insertions; neither is ever left out.
    """
    if unit not in ("word", "char"):
        raise UserError(f"errors are counted by unit 'word' or 'char', found {unit!r}")
    reference, hypothesis = " ".join(reference.split()), " ".join(hypothesis.split())
    if not reference or not hypothesis:
        return ErrorCounts(deletions=_units(reference, unit), insertions=_units(hypothesis, unit))
    import jiwer

    process = jiwer.process_words if unit == "word" else jiwer.process_characters
    found: Any = process(reference, hypothesis)
    return ErrorCounts(found.hits, found.substitutions, found.deletions, found.insertions)


def _units(text: str, unit: Unit) -> int:
    return len(text.split()) if unit == "word" else len(text)


def score(pairs: Iterable[tuple[str, str]], unit: Unit = "word") -> list[ErrorCounts]:
    """Return the counts of every (reference, hypothesis) pair, in the order given."""
    return [count_errors(reference, hypothesis, unit) for reference, hypothesis in pairs]


def total(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    """Return the sum of all counts: those of the corpus."""
    return reduce(add, counts, ErrorCounts())


def bootstrap_interval(
    errors: Sequence[int], words: Sequence[int], samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of the corpus error rate, a fraction, from utterances drawn with replacement.

    `errors` and `words` hold one number an utterance. Without any reference word both ends are NaN.
    """
    errors_U, words_U = _as_counts(errors, words)
    if words_U.sum() == 0:
        return float("nan"), float("nan")
    drawn = [
        (errors_U[draw].sum(axis=1), words_U[draw].sum(axis=1)) for draw in _resamples(len(words_U), samples, seed)
    ]
    errors_S, words_S = (np.concatenate(column) for column in zip(*drawn, strict=True))
    usable = words_S > 0
    return _middle_95(errors_S[usable] / words_S[usable])


@dataclass(frozen=True, slots=True)
class Change:
    """A relative change of an error rate, -0.1 for 10 % fewer errors, and its 95 % interval."""

    relative: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """True where the interval does not contain "no change"."""
        return self.low > 0.0 or self.high < 0.0


def paired_change(
    errors_a: Sequence[int], words: Sequence[int], errors_b: Sequence[int], samples: int = 1000, seed: int = 0
) -> Change:
    """Return the change from a's to b's corpus error rate on the same utterances, with a paired bootstrap interval.

    Each draw takes the utterances of both. Pairing removes the difficulty of an utterance, which both share, so it
    finds differences that two separate intervals hide. Both rates have the same denominator, so the change is that of
    the summed errors. It is infinite where a makes no error and b does.
    """
    errors_a_U, _ = _as_counts(errors_a, words)
    errors_b_U, _ = _as_counts(errors_b, words)
    changes = [
        _relative(errors_a_U[draw].sum(axis=1), errors_b_U[draw].sum(axis=1))
        for draw in _resamples(len(errors_a_U), samples, seed)
    ]
    low, high = _middle_95(np.concatenate(changes))
    return Change(float(_relative(errors_a_U.sum(keepdims=True), errors_b_U.sum(keepdims=True))[0]), low, high)


def _relative(errors_a_S: NDArray[np.int64], errors_b_S: NDArray[np.int64]) -> NDArray[np.float64]:
    without_errors = np.where(errors_b_S == 0, 0.0, np.inf)  # a made none: the same, or infinitely worse
    return np.where(errors_a_S == 0, without_errors, errors_b_S / np.maximum(errors_a_S, 1) - 1.0)


def _middle_95(values: NDArray[np.float64]) -> tuple[float, float]:
    # "inverted_cdf" returns drawn values and never interpolates, so an infinite one does no harm
    low, high = np.quantile(values, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def _resamples(utterances: int, samples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield utterance numbers (S, U) drawn with replacement, `samples` rows in all, in pieces of bounded size."""
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // utterances)
    for start in range(0, samples, at_once):
        yield rng.integers(0, utterances, size=(min(at_once, samples - start), utterances))


def _as_counts(errors: Sequence[int], words: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if len(errors) != len(words):
        raise UserError(f"a bootstrap needs the same utterances on both sides, found {len(errors)} and {len(words)}")
    if len(words) == 0:
        raise UserError("a bootstrap needs at least one utterance, found none")
    return np.asarray(errors, dtype=np.int64), np.asarray(words, dtype=np.int64)
