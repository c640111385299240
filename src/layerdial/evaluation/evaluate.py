"""Recognition of utterances with one subset and error counts: one measurement for training, sweep and device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from layerdial.errors import UserError
from layerdial.evaluation.metrics import ErrorCounts, score, total
from layerdial.recognizer import FeatureBatch, by_utterance
from layerdial.request import Request
from layerdial.subset import Blocks
from layerdial.text.normalisers import Normalizer, normalizer_of


class Batches(Protocol):
    """The utterances of a corpus, which can be iterated several times, and what was left out of it."""

    @property
    def rejected(self) -> Sized: ...
    def __iter__(self) -> Iterator[FeatureBatch]: ...


class Recognizes(Protocol):
    """The part of a recogniser that an evaluation needs."""

    def recognize(self, batch: FeatureBatch, subset: Blocks, request: Request | None = None) -> list[str]: ...


@dataclass(frozen=True)
class Evaluation:
    """The texts of the cuts and of the recogniser, utterance by utterance, and how they are normalised for a score."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    recognized: tuple[str, ...]
    audio_seconds: float
    normalizer: Normalizer = "basic"

    def normalized_by(self, normalizer: Normalizer) -> Evaluation:
        """Return the same texts, scored in another normal form."""
        return replace(self, normalizer=normalizer)

    @cached_property
    def references(self) -> tuple[str, ...]:
        return tuple(map(normalizer_of(self.normalizer), self.texts))

    @cached_property
    def hypotheses(self) -> tuple[str, ...]:
        return tuple(map(normalizer_of(self.normalizer), self.recognized))

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


def evaluate(
    recognizer: Recognizes,
    batches: Iterable[FeatureBatch],
    subset: Blocks,
    normalizer: Normalizer = "basic",
    request: Request | None = None,
) -> Evaluation:
    """Recognise every batch with `subset`, by the search of `request`. References and hypotheses are normalised alike.

    Raises `UserError` where there is no word to score: an error rate of nothing is no measurement.
    """
    normalizer_of(normalizer)
    ids: list[str] = []
    texts: list[str] = []
    recognized: list[str] = []
    seconds = 0.0
    for batch in batches:
        given = (batch, subset) if request is None else (batch, subset, request)
        for name, text, found in by_utterance(batch, recognizer.recognize(*given)):
            ids.append(name)
            texts.append(text)
            recognized.append(found)
        seconds += batch.audio_seconds
    evaluation = Evaluation(tuple(ids), tuple(texts), tuple(recognized), seconds, normalizer)
    if not any(evaluation.references):
        problem = (
            f"the {len(ids)} cuts that can be read have no words" if ids else "the cuts hold no utterance to be read"
        )
        raise UserError(f"nothing to score: {problem}")
    return evaluation
