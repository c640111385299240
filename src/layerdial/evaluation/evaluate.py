"""Recognition of utterances with one subset and error counts: one measurement for training, sweep and device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from layerdial.errors import UserError
from layerdial.evaluation.metrics import ErrorCounts, score, total
from layerdial.recognizer import FeatureBatch, Recognizer
from layerdial.subset import Blocks
from layerdial.text.normalise import normalise


class Batches(Protocol):
    """The utterances of a corpus, which can be iterated several times, and what was left out of it."""

    @property
    def rejected(self) -> Sized: ...
    def __iter__(self) -> Iterator[FeatureBatch]: ...


@dataclass(frozen=True)
class Evaluation:
    """References and hypotheses, utterance by utterance."""

    ids: tuple[str, ...]
    references: tuple[str, ...]
    hypotheses: tuple[str, ...]
    audio_seconds: float

    @cached_property
    def word_counts(self) -> list[ErrorCounts]:
        return score(zip(self.references, self.hypotheses, strict=True), unit="word")

    @cached_property
    def char_counts(self) -> list[ErrorCounts]:
        return score(zip(self.references, self.hypotheses, strict=True), unit="char")

    @property
    def wer(self) -> ErrorCounts:
        return total(self.word_counts)

    @property
    def cer(self) -> ErrorCounts:
        return total(self.char_counts)


def evaluate(recognizer: Recognizer, batches: Iterable[FeatureBatch], subset: Blocks) -> Evaluation:
    """Recognise every batch with `subset`. References and hypotheses are normalised alike.

    Raises `UserError` where there is no word to score: an error rate of nothing is no measurement.
    """
    ids: list[str] = []
    references: list[str] = []
    hypotheses: list[str] = []
    seconds = 0.0
    for batch in batches:
        hypotheses += map(normalise, recognizer.recognize(batch, subset))
        references += map(normalise, batch.texts)
        ids += batch.ids
        seconds += batch.audio_seconds
    if not any(references):
        found = (
            f"the {len(ids)} cuts that can be read have no words" if ids else "the cuts hold no utterance to be read"
        )
        raise UserError(f"nothing to score: {found}")
    return Evaluation(tuple(ids), tuple(references), tuple(hypotheses), seconds)
