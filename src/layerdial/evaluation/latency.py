"""Latency of recognisers: the network alone, and everything from samples to text, measured in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE
from layerdial.recognizer import FeatureBatch, Recognizer, collate_features
from layerdial.subset import Blocks
from layerdial.utils.rows import Row
from layerdial.utils.timing import measure_in_turns

Times = Callable[[Recognizer, Sequence[Blocks]], Sequence[Row]]
"""A function that measures `latency_ms` and `rtf` of each subset of a recogniser."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The settings of a latency measurement on one utterance: the median of `repeats` turns after `warmup`.

    The utterance has `seconds` of audio. All subsets take turns. After `budget_s` seconds no further turn begins, but
    at least three are measured.
    """

    seconds: float = 10.0
    warmup: int = 2
    repeats: int = 7
    budget_s: float = 60.0

    def __call__(self, recognizer: Recognizer, subsets: Sequence[Blocks]) -> list[Row]:
        """Return `latency_ms` of the network alone, and `rtf` with features and decoding, of each subset."""
        return self.in_turns([(recognizer, subset) for subset in subsets])

    def in_turns(self, passes: Sequence[tuple[Recognizer, Blocks]]) -> list[Row]:
        """Return the same for the subsets of several recognisers, all in the same turns."""
        samples = np.random.default_rng(0).normal(0.0, 0.1, round(self.seconds * SAMPLE_RATE)).astype(np.float32)
        alone = [recognizer.pass_over(_one_utterance(recognizer, samples), subset) for recognizer, subset in passes]
        whole = [partial(_recognize_samples, recognizer, samples, subset) for recognizer, subset in passes]
        found = measure_in_turns([*alone, *whole], self.warmup, self.repeats, self.budget_s)
        return [
            {"latency_ms": round(ms_alone, 3), "rtf": round(ms_whole / 1000 / self.seconds, 6)}
            for ms_alone, ms_whole in zip(found[: len(passes)], found[len(passes) :], strict=True)
        ]


def _recognize_samples(recognizer: Recognizer, samples: NDArray[np.float32], subset: Blocks) -> list[str]:
    return recognizer.recognize(_one_utterance(recognizer, samples), subset)


def _one_utterance(recognizer: Recognizer, samples: NDArray[np.float32]) -> FeatureBatch:
    return collate_features(["noise"], [recognizer.features(samples)], [""], len(samples) / SAMPLE_RATE)
