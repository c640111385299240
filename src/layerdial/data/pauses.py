"""Pauses in training: silence and noise around utterances, between joined ones, and without any words.

Recordings are not cut as tightly as a corpus is. All is drawn from one generator, so equal seeds give equal examples.
Utterances begin at multiples of `hop`, the samples of an output frame, so their frames are those that they have alone.

Shapes: S samples at 16 kHz.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.noise import coloured_noise, rms
from layerdial.config.recipe import DataConfig, PausesConfig

_LARGEST_GROWTH = 2  # of a batch, so that it fits the memory that `batch_seconds` was chosen for
_SHORTEST_GAP = 0.1  # seconds between joined utterances
_SHORTEST_ALONE = 0.3  # seconds
_ALONE_DB = (-70.0, -6.0)  # of full scale: the levels of noise without words
_SLOPES = (-0.5, 1.5)  # of noise spectra; negative ones count as 0, white noise
_SILENT = 0.3  # the share of pauses, and of examples without words, that are digital silence
_EDGE = 0.75  # the share of examples with a pause at their beginning, and of those with one at their end


@dataclass(frozen=True)
class Spoken:
    """An utterance of a batch: its samples (S,) at this epoch's speed, and its labels."""

    id: str
    speed: float
    samples: NDArray[np.float32]
    labels: list[int]


@dataclass(frozen=True)
class Example:
    """Samples (S,), and the utterances in them with the first sample of each; none of them where it has no words."""

    id: str
    samples: NDArray[np.float32]
    parts: tuple[tuple[int, Spoken], ...]


def most_seconds(config: DataConfig) -> float:
    """Return the seconds of the largest batches, in which utterances have pauses if the recipe says so."""
    return config.batch_seconds * (_LARGEST_GROWTH if config.pauses else 1)


def changes_samples(config: DataConfig) -> bool:
    """Whether `examples` would return anything but the utterances as they are."""
    return config.pauses is not None or config.gain_db is not None


def examples(spoken: Sequence[Spoken], config: DataConfig, hop: int, epoch: int, name: str) -> list[Example]:
    """Return the examples of a batch: its utterances at other levels and with pauses, drawn by `name` alone."""
    rng = np.random.default_rng(Random(name).getrandbits(64))
    made = [_alone(utterance) for utterance in spoken]
    if spoken and config.pauses is not None and epoch >= config.pauses.from_epoch:
        made = _with_pauses(spoken, config, config.pauses, hop, rng)
    if config.gain_db is not None:
        made = [_at_other_level(example, config.gain_db, rng) for example in made]
    return made


def _with_pauses(
    spoken: Sequence[Spoken], config: DataConfig, pauses: PausesConfig, hop: int, rng: np.random.Generator
) -> list[Example]:
    """Return a batch's examples; all are as long as the longest of them at most, so that pauses replace padding.

    Where the pauses that are drawn need more room than a batch has, some of the utterances are left out.
    """
    made = _joined(spoken, config, pauses, hop, rng) if rng.random() < pauses.joined else list(map(_alone, spoken))
    longest = max(len(example.samples) for example in made)
    if rng.random() < pauses.share:
        asked = longest + int(2 * pauses.seconds * rng.random() ** 2 * SAMPLE_RATE)
        asked = max(longest, min(asked, int(config.max_seconds * SAMPLE_RATE)))
        room = int(most_seconds(config) * SAMPLE_RATE)
        kept = max(1, min(len(made), room // asked - 1))  # beside them may be an example without words
        longest = max(longest, min(asked, room // (kept + 1)))
        chosen = sorted(rng.choice(len(made), kept, replace=False).tolist())
        made = [_moved(made[i], longest, hop, rng) for i in chosen]
    made = [_with_background(example, pauses.noise_db, rng) for example in made]
    if rng.random() < pauses.alone:
        made.append(_without_words(f"no words, beside {spoken[0].id}", longest, rng))
    return made


def _alone(spoken: Spoken) -> Example:
    return Example(spoken.id, spoken.samples, ((0, spoken),))


def _joined(
    spoken: Sequence[Spoken], config: DataConfig, pauses: PausesConfig, hop: int, rng: np.random.Generator
) -> list[Example]:
    """Return neighbours as one example, two or more of them, as far as it is not longer than a cut may be."""
    size = int(rng.integers(2, max(2, len(spoken)), endpoint=True))
    free = most_seconds(config) / len(spoken) - max(len(utterance.samples) for utterance in spoken) / SAMPLE_RATE
    longest_gap = max(_SHORTEST_GAP, min(pauses.seconds, free))
    groups: list[list[tuple[int, Spoken]]] = []
    for utterance in spoken:
        gap = round(rng.uniform(_SHORTEST_GAP, longest_gap) * SAMPLE_RATE)
        start = -(-(_end(groups[-1]) + gap) // hop) * hop if groups and len(groups[-1]) < size else 0
        if start and start + len(utterance.samples) <= config.max_seconds * SAMPLE_RATE:
            groups[-1].append((start, utterance))
        else:
            groups.append([(0, utterance)])
    return [_example(group) for group in groups]


def _end(parts: Sequence[tuple[int, Spoken]]) -> int:
    start, spoken = parts[-1]
    return start + len(spoken.samples)


def _example(parts: Sequence[tuple[int, Spoken]]) -> Example:
    """Return utterances, each from its first sample, with silence between."""
    samples = np.zeros(_end(parts), np.float32)
    for start, spoken in parts:
        samples[start : start + len(spoken.samples)] = spoken.samples
    return Example(" + ".join(spoken.id for _, spoken in parts), samples, tuple(parts))


def _moved(example: Example, longest: int, hop: int, rng: np.random.Generator) -> Example:
    """Return an example with silence before and after it, together at most `longest` samples."""
    room = longest - len(example.samples)
    before = int(room * rng.random()) // hop * hop if rng.random() < _EDGE else 0
    after = int((room - before) * rng.random()) if rng.random() < _EDGE else 0
    parts = tuple((start + before, spoken) for start, spoken in example.parts)
    return replace(example, samples=np.pad(example.samples, (before, after)), parts=parts)


def _with_background(example: Example, noise_db: tuple[float, float], rng: np.random.Generator) -> Example:
    """Return an example whose pauses are silent, or have noise below the speech, which may go on under it."""
    spoken = sum(len(part.samples) for _, part in example.parts)
    if spoken == len(example.samples) or rng.random() < _SILENT:
        return example
    speech = rms(np.concatenate([part.samples for _, part in example.parts]))
    level = speech * 10 ** (-rng.uniform(*noise_db) / 20)
    noise = _noise(len(example.samples), rng) * np.float32(level)
    if rng.random() < 0.5:
        for start, part in example.parts:
            noise[start : start + len(part.samples)] = 0.0
    return replace(example, samples=example.samples + noise)


def _without_words(name: str, longest: int, rng: np.random.Generator) -> Example:
    """Return silence or noise of at most `longest` samples, in which nothing is to be recognised."""
    shortest = min(longest, int(_SHORTEST_ALONE * SAMPLE_RATE))
    length = int(rng.integers(shortest, longest, endpoint=True))
    if rng.random() < _SILENT:
        return Example(name, np.zeros(length, np.float32), ())
    level = np.float32(10 ** (rng.uniform(*_ALONE_DB) / 20))
    return Example(name, (_noise(length, rng) * level).clip(-1.0, 1.0), ())


def _noise(length: int, rng: np.random.Generator) -> NDArray[np.float32]:
    return coloured_noise(length, max(0.0, rng.uniform(*_SLOPES)), rng)


def _at_other_level(example: Example, gain_db: tuple[float, float], rng: np.random.Generator) -> Example:
    """Return an example louder or quieter, without clipping; noise without words has a level of its own."""
    gain = 10 ** (rng.uniform(*gain_db) / 20)
    if not example.parts:
        return example
    loudest = float(np.abs(example.samples).max())
    gain = min(gain, max(1.0, 1.0 / loudest)) if loudest else 1.0
    return replace(example, samples=example.samples * np.float32(gain))
