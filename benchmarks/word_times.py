"""How near the times of words are to known ones: on speech of espeak-ng, whose words have known times.

    python benchmarks/word_times.py TEXTS MODEL... [--utterances 80] [--snr 30] [--depth 4] [--confidence]

MODEL is an exported folder or one of torch, CTC or Whisper; TEXTS are cuts, whose transcripts are spoken. Half of the
utterances are spoken in one go, the others in up to three parts with pauses of 0.25 to 1 s. Printed are the medians of
the errors of words that are recognised, in milliseconds (a bias above zero is too late), and what words cost.
With --confidence the cuts are recognised, and printed is the expected calibration error of the words' confidence.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.noise import coloured_noise
from layerdial.data.manifest import cut_text, open_cuts
from layerdial.data.synthesis.demo_corpus import VOICES
from layerdial.data.synthesis.espeak import NATIVE_RATE
from layerdial.data.synthesis.timed import SpokenWords, speak_timed
from layerdial.evaluation.calibrate import judged
from layerdial.evaluation.judged import JudgedWords
from layerdial.evaluation.load import load_model
from layerdial.request import Request
from layerdial.text.normalise import normalise
from layerdial.transcript import Word

_WORDS = (10, 24)
_PAUSE = (0.25, 1.0)
_TURNS = 21


@dataclass(frozen=True)
class Recording:
    """Samples (S,) and their words, in order."""

    samples: Any
    words: list[SpokenWords]


def recordings(cuts: Path, count: int, snr_db: float) -> list[Recording]:
    """Speak texts of the cuts by voices that the demonstration's models are tested with."""
    rng, voices = np.random.default_rng(0), VOICES["test"]
    texts = long_texts(cut_text(cut).split() for cut in open_cuts(cuts))
    return [
        spoken(texts[rng.integers(len(texts))], f"en-us+{voices[i % len(voices)]}", 1 + 2 * (i % 2), snr_db, rng)
        for i in range(count)
    ]


def long_texts(texts: Iterable[list[str]]) -> list[list[str]]:
    """Return the texts of ten words or more; where there are none, short ones joined to that."""
    every = list(texts)
    long = [words for words in every if len(words) >= _WORDS[0]]
    if long:
        return long
    joined = list[list[str]]([[]])
    for words in every:
        joined[-1] += words
        if len(joined[-1]) >= _WORDS[1]:
            joined.append([])
    return [words for words in joined if len(words) >= _WORDS[0]]


def spoken(words: Sequence[str], voice: str, n_parts: int, snr_db: float, rng: np.random.Generator) -> Recording:
    """Speak some of the words in so many parts, with pauses between them, in noise."""
    words = words[: int(rng.integers(_WORDS[0], _WORDS[1] + 1))]
    speed, pitch = int(rng.integers(130, 190)), int(rng.integers(30, 70))
    audio, times = [np.zeros(round(rng.uniform(0.1, 0.6) * SAMPLE_RATE), np.float32)], list[SpokenWords]()
    for part in np.array_split(words, n_parts):
        begin = sum(map(len, audio)) / SAMPLE_RATE
        native, found = speak_timed(" ".join(part), voice, speed, pitch)
        times += [SpokenWords(one.text, begin + one.start, begin + one.end) for one in found]
        audio.append(soxr.resample(native[: round(found[-1].end * NATIVE_RATE)], NATIVE_RATE, SAMPLE_RATE))
        audio.append(np.zeros(round(rng.uniform(*_PAUSE) * SAMPLE_RATE), np.float32))
    samples = np.concatenate(audio)
    samples *= 0.3 / np.abs(samples).max()
    level = np.sqrt(np.square(samples).mean() * 10 ** (-snr_db / 10))
    noisy = samples + coloured_noise(len(samples), 0.8, rng) * np.float32(level)
    return Recording(noisy.astype(np.float32), times)


def pairs(expected: Sequence[SpokenWords], found: Sequence[Word]) -> Iterator[tuple[SpokenWords, Word]]:
    """Yield the words that were recognised, with what was found of them. Words that espeak-ng joins are left out."""
    texts = [one.text for one in expected], [normalise(word.text) for word in found]
    for block in SequenceMatcher(None, *texts, autojunk=False).get_matching_blocks():
        for i in range(block.size):
            yield expected[block.a + i], found[block.b + i]


def calibration_error(model: Any, cuts: Path, depth: int | None) -> str:
    """Return how far confidence is from the share of right words, over ten bins of the words of the cuts."""
    words = JudgedWords.of(row for rows in judged(model, cuts, depth) for row in rows)
    return f"{words.error():.3f} ({len(words)} words)"


def described(errors: Iterable[float]) -> str:
    ms = 1000 * np.array(list(errors))
    size = np.abs(ms)
    return f"{np.median(size):.0f} (90 % below {np.quantile(size, 0.9):.0f}, bias {np.median(ms):+.0f})"


def cost(model: Any, samples: Any, depth: int | None) -> str:
    """Return the median CPU time of a request, and the median ratio of one with words to the one before it."""
    requests = Request(depth), Request(depth, words=True)
    taken: list[list[float]] = [[], []]
    for _ in range(_TURNS):
        for request, times in zip(requests, taken, strict=True):
            start = time.process_time()  # other processes have no part in it
            model.answer(samples, request)
            times.append(1000 * (time.process_time() - start))
    plain, timed = np.array(taken)[:, 1:]
    return f"{np.median(plain):.1f} ms, words {np.median(timed / plain) - 1:+.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cuts", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--utterances", type=int, default=80)
    parser.add_argument("--snr", type=float, default=30.0, help="decibels of the speech above the noise")
    parser.add_argument("--depth", type=int)
    parser.add_argument("--confidence", action="store_true", help="recognise the cuts instead, and look at confidence")
    options = parser.parse_args()
    if options.confidence:
        for folder in options.models:
            error = calibration_error(load_model(folder, "cpu", 1), options.cuts, options.depth)
            print(f"{folder}: expected calibration error {error}")
        return
    audio = recordings(options.cuts, options.utterances, options.snr)
    for folder in options.models:
        model = load_model(folder, "cpu", 1)
        long = np.concatenate([one.samples for one in audio])
        for seconds in (5, 10, 30):
            print(f"{folder} {seconds} s: {cost(model, long[: seconds * SAMPLE_RATE], options.depth)}", flush=True)
        found = [model.answer(one.samples, Request(options.depth, words=True)).words for one in audio]
        for name, part in (("in one go", slice(0, None, 2)), ("with pauses", slice(1, None, 2))):
            both = [
                pair for one, words in zip(audio[part], found[part], strict=True) for pair in pairs(one.words, words)
            ]
            n_words = sum(len(one.words) for one in audio[part])
            starts, ends = ([getattr(w, end) - getattr(e, end) for e, w in both] for end in ("start", "end"))
            print(f"{folder} {name}: {len(both)} of {n_words} words, start {described(starts)}, end {described(ends)}")


if __name__ == "__main__":
    main()
