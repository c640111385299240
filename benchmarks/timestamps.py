"""Whisper's timestamps on recordings of a minute, made of utterances that follow each other.

    python benchmarks/timestamps.py CUTS MODEL... [--depth 4] [--recordings 8]

MODEL is an exported folder or one of torch. Where an utterance ends and the next begins, speech pauses; printed is how
many of these places have the end or the beginning of a segment within half a second, how many segments there are, and
WER with and without timestamps, in the same recordings.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from layerdial.audio.files import SAMPLE_RATE
from layerdial.data.manifest import cut_text, load_samples, open_cuts
from layerdial.evaluation.load import load_model
from layerdial.evaluation.metrics import ErrorCounts, score, total
from layerdial.request import Request
from layerdial.text.normalise import normalise
from layerdial.transcript import Transcript

SECONDS = 60.0
NEAR = 0.5


@dataclass(frozen=True)
class Recording:
    """Samples (S,), the seconds where utterances meet, and the words."""

    samples: Any
    joints: list[float]
    text: str


def recordings(cuts: Path) -> Iterator[Recording]:
    """Join utterances to recordings of a minute or more, in their order."""
    parts, texts, joints, seconds = list[Any](), list[str](), list[float](), 0.0
    for cut in open_cuts(cuts):
        if parts:
            joints.append(seconds)
        parts.append(load_samples(cut))
        texts.append(str(cut_text(cut) or ""))
        seconds += len(parts[-1]) / SAMPLE_RATE
        if seconds >= SECONDS:
            yield Recording(np.concatenate(parts), joints, " ".join(texts))
            parts, texts, joints, seconds = [], [], [], 0.0


def errors(found: list[tuple[Recording, Transcript]]) -> ErrorCounts:
    return total(score((one.text, normalise(result.text)) for one, result in found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cuts", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--depth", type=int)
    parser.add_argument("--recordings", type=int, help="how many; all if left out")
    options = parser.parse_args()
    audio = list(islice(recordings(options.cuts), options.recordings))
    for folder in options.models:
        model, start = load_model(folder, "cpu", 1), time.perf_counter()
        timed = [(one, model.answer(one.samples, Request(options.depth, timestamps=True))) for one in audio]
        taken = time.perf_counter() - start
        plain = [(one, model.answer(one.samples, Request(options.depth))) for one in audio]
        near = sum(_has_edge(result, joint) for one, result in timed for joint in one.joints)
        rates = [f"{errors(found).rate:.2%} ({errors(found).errors})" for found in (timed, plain)]
        print(
            f"{folder} depth {options.depth or model.n_blocks}: {len(audio)} recordings, "
            f"{near} of {sum(len(one.joints) for one in audio)} joints, "
            f"{sum(len(result.segments) for _, result in timed)} segments, WER {rates[0]} with, {rates[1]} without; "
            f"{taken:.0f} s and {time.perf_counter() - start - taken:.0f} s",
            flush=True,
        )


def _has_edge(result: Transcript, joint: float) -> bool:
    return any(abs(time - joint) <= NEAR for one in result.segments for time in (one.start, one.end))


if __name__ == "__main__":
    main()
