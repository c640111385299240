"""WER with pauses: silence and white noise on each side of every utterance, between two, at other levels, and alone.

    python benchmarks/pauses.py MODEL CUTS.jsonl.gz [--depth N] [--most N]

MODEL is a torch model or an export. Noise lies so many dB below the mean power of its utterance. The aim is a WER
within 10 % relative of that without pauses, and no word in noise without speech.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layerdial import load_model
from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.noise import rms
from layerdial.data.manifest import cut_text, load_samples, open_cuts
from layerdial.evaluation.metrics import ErrorCounts, score, total
from layerdial.recognizer import Recognizer
from layerdial.text.normalise import normalise

Samples = NDArray[np.float32]
Change = Callable[[Samples, np.random.Generator], Samples]
Spoken = Sequence[tuple[Samples, str]]
SECONDS = (0.5, 2.0, 5.0)
NOISE_DB = (20.0, 30.0, 40.0)  # below the speech
GAINS_DB = (-20.0, -10.0, 6.0)
ALONE_DBFS = (-10.0, -20.0, -30.0, -40.0, -50.0, -60.0)
ALONE_SECONDS, ALONE_TIMES = 10.0, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("cuts", type=Path)
    parser.add_argument("--depth", type=int)
    parser.add_argument("--most", type=int, help="utterances; all if left out")
    options = parser.parse_args()
    model = load_model(options.model)
    spoken = [(load_samples(cut), normalise(cut_text(cut))) for cut in islice(open_cuts(options.cuts), options.most)]
    plain = wer(model, spoken, lambda samples, rng: samples, options.depth)
    print(f"| around {len(spoken)} utterances | WER in % | errors | relative |\n|---|---|---|---|")
    print(row("nothing", plain, plain), flush=True)
    for name, change in changes():
        print(row(name, wer(model, spoken, change, options.depth), plain), flush=True)
    print(row("two joined, 2 s of silence between", wer_joined(model, spoken, 2.0, options.depth), plain))
    print(f"\n| white noise alone, {ALONE_TIMES} x {ALONE_SECONDS:g} s | words |\n|---|---|")
    for level in ALONE_DBFS:
        print(f"| {level:g} dB of full scale | {words_in_noise(model, level, options.depth)} |", flush=True)


def row(name: str, found: ErrorCounts, plain: ErrorCounts) -> str:
    relative = 100 * (found.errors / max(plain.errors, 1) * plain.words / max(found.words, 1) - 1)
    return f"| {name} | {100 * found.rate:.1f} | {found.errors} | {relative:+.0f} % |"


def changes() -> Iterator[tuple[str, Change]]:
    """Yield what is done to an utterance, in words and as a function."""
    for seconds in SECONDS:
        yield f"{seconds:g} s of digital silence on each side", _with_silence(seconds)
    for below in NOISE_DB:
        for seconds in SECONDS:
            yield f"{seconds:g} s of white noise, {below:g} dB below, on each side", _with_noise(seconds, below)
    for gain in GAINS_DB:
        yield f"level changed by {gain:+g} dB", _at_level(gain)


def _with_silence(seconds: float) -> Change:
    return lambda samples, rng: np.pad(samples, round(seconds * SAMPLE_RATE))


def _with_noise(seconds: float, below_db: float) -> Change:
    def change(samples: Samples, rng: np.random.Generator) -> Samples:
        level = rms(samples) * 10 ** (-below_db / 20)
        before, after = (rng.normal(0.0, level, round(seconds * SAMPLE_RATE)).astype(np.float32) for _ in range(2))
        return np.concatenate([before, samples, after])

    return change


def _at_level(gain_db: float) -> Change:
    return lambda samples, rng: (samples * np.float32(10 ** (gain_db / 20))).clip(-1.0, 1.0)


def wer(model: Recognizer, spoken: Spoken, change: Change, depth: int | None) -> ErrorCounts:
    """Return the errors on utterances that were changed, with noise that is the same at every call."""
    rng = np.random.default_rng(0)
    texts = [normalise(model.transcribe(change(samples, rng), depth=depth).text) for samples, _ in spoken]
    return total(score(zip((text for _, text in spoken), texts, strict=True)))


def wer_joined(model: Recognizer, spoken: Spoken, seconds: float, depth: int | None) -> ErrorCounts:
    """Return the errors on pairs of utterances with silence between."""
    gap = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
    pairs = [
        (np.concatenate([a, gap, b]), f"{said} {then}")
        for (a, said), (b, then) in zip(spoken[::2], spoken[1::2], strict=False)
    ]
    return wer(model, pairs, lambda samples, rng: samples, depth)


def words_in_noise(model: Recognizer, level_dbfs: float, depth: int | None) -> int:
    """Return how many words are recognised in white noise of a level."""
    rng = np.random.default_rng(0)
    level, length = 10 ** (level_dbfs / 20), round(ALONE_SECONDS * SAMPLE_RATE)
    noises = [rng.normal(0.0, level, length).clip(-1.0, 1.0).astype(np.float32) for _ in range(ALONE_TIMES)]
    return sum(len(model.transcribe(noise, depth=depth).text.split()) for noise in noises)


if __name__ == "__main__":
    main()
