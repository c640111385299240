"""Recognise utterances with one subset and count the errors: one measurement for training, sweep and device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from layerdial.metrics import ErrorCounts, score, total
from layerdial.subset import BlockSubset


@dataclass(frozen=True)
class FeatureBatch:
    """Utterances as features: `features_BTF` zero-padded log-mel, `lengths_B` their frames, `texts` what was said."""

    ids: tuple[str, ...]
    features_BTF: NDArray[np.float32]
    lengths_B: NDArray[np.int64]
    texts: tuple[str, ...]
    audio_seconds: float


def collate_features(
    ids: Sequence[str], features: Sequence[NDArray[np.float32]], texts: Sequence[str], audio_seconds: float
) -> FeatureBatch:
    """Pad features (T_b, F) with zeros to one array (B, T, F)."""
    lengths_B = np.array([len(f) for f in features], dtype=np.int64)
    padded_BTF = np.zeros((len(features), int(lengths_B.max()), features[0].shape[1]), dtype=np.float32)
    for row, feature in zip(padded_BTF, features, strict=True):
        row[: len(feature)] = feature
    return FeatureBatch(tuple(ids), padded_BTF, lengths_B, tuple(texts), audio_seconds)


class Recognizes(Protocol):
    """Whatever turns features into text at a chosen subset: a torch model, an ONNX session."""

    @property
    def n_blocks(self) -> int: ...
    def recognize(self, batch: FeatureBatch, subset: BlockSubset) -> list[str]: ...


@dataclass(frozen=True)
class Evaluation:
    """What was said and what was recognised, utterance by utterance."""

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


def evaluate(recognizer: Recognizes, batches: Iterable[FeatureBatch], subset: BlockSubset) -> Evaluation:
    """Recognise every batch with `subset`."""
    ids: list[str] = []
    references: list[str] = []
    hypotheses: list[str] = []
    seconds = 0.0
    for batch in batches:
        hypotheses += recognizer.recognize(batch, subset)
        references += batch.texts
        ids += batch.ids
        seconds += batch.audio_seconds
    return Evaluation(tuple(ids), tuple(references), tuple(hypotheses), seconds)
