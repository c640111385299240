"""What each utterance of a manifest costs a model at each depth, and how many errors it has: measured once, and kept.

Milliseconds are computing time of the one thread that works, so that other programs on the machine count little.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE
from layerdial.data.manifest import cut_text, load_samples, open_cuts
from layerdial.errors import UserError
from layerdial.evaluation.metrics import count_errors
from layerdial.runtime import Recognizer
from layerdial.runtime.controller import CostTable, DepthController, DepthOption, worthwhile
from layerdial.serving.scheduler import QueueScheduler
from layerdial.subset import BlockSubset
from layerdial.text.normalise import normalise
from layerdial.utils.rows import Row, append_row, read_rows
from serving_clock import Utterance

Spoken = list[tuple[NDArray[np.float32], str]]
POINTS = (2.0, 5.0, 10.0, 15.0, 20.0)  # seconds at which a table of costs has its rows


def spoken(cuts: Path, lengths: Sequence[float], most: int) -> Spoken:
    """Return samples and transcripts of the first `most` utterances of such lengths."""
    found: Spoken = []
    for cut in open_cuts(cuts):
        if lengths[0] <= cut.duration <= lengths[1] and len(found) < most:
            found.append((load_samples(cut), normalise(cut_text(cut))))
    return found


def measured(folder: Path, speech: Spoken, out: Path, repeats: int = 2) -> tuple[list[Utterance], list[float]]:
    """Return each utterance with its costs and errors, and the milliseconds of its features.

    They are kept in a file; what is there is not measured again.
    """
    file = out / "measured.jsonl"
    rows = read_rows(file)[: len(speech)]
    if len(rows) < len(speech):
        recognizer = Recognizer(folder, 1)
        recognizer.warm_up()
        for samples, text in speech[len(rows) :]:
            rows.append(measure(recognizer, samples, text, repeats))
            append_row(file, rows[-1])
    by_depth = [{name: {int(d): n for d, n in row[name].items()} for name in ("ms", "errors")} for row in rows]
    utterances = [Utterance(row["seconds"], row["words"], **some) for row, some in zip(rows, by_depth, strict=True)]
    return utterances, [row["features_ms"] for row in rows]


def measure(recognizer: Recognizer, samples: NDArray[np.float32], text: str, repeats: int) -> Row:
    """Return what one utterance costs at each depth that is worth running, the least of some turns, and its errors."""
    options = worthwhile(recognizer.ladder, recognizer.n_blocks)
    features, ms, errors = list[float](), dict[int, list[float]](), dict[int, int]()
    for _ in range(repeats):
        for option in options:
            start = time.thread_time()
            recognizer.features(samples)
            features.append(1000.0 * (time.thread_time() - start))
            start = time.thread_time()
            found = recognizer.transcribe(samples, subset=option.subset)
            ms.setdefault(option.depth, []).append(1000.0 * (time.thread_time() - start))
            errors[option.depth] = count_errors(text, normalise(found.text)).errors
    seconds, words = len(samples) / SAMPLE_RATE, len(text.split())
    times = {depth: min(some) for depth, some in ms.items()}
    row = asdict(Utterance(seconds, words, times, errors)) | {"features_ms": min(features)}
    return {**row, **{name: {str(d): n for d, n in row[name].items()} for name in ("ms", "errors")}}  # as JSON has it


def controller(utterances: Sequence[Utterance], features_ms: Sequence[float]) -> DepthController:
    """Return a controller that knows the mean cost of each length and depth, as after `layerdial profile`."""
    depths = sorted(utterances[0].ms)
    features = curve(utterances, features_ms)
    network = {}
    for depth in depths:
        total = curve(utterances, [one.ms[depth] for one in utterances])
        network[depth] = tuple(max(t - f - QueueScheduler.AFTER_MS, 0.1) for t, f in zip(total, features, strict=True))
    words = sum(one.words for one in utterances)
    rates = {depth: sum(one.errors[depth] for one in utterances) / words for depth in depths}
    options = [DepthOption(depth, BlockSubset.prefix(depths[-1], depth), rates[depth]) for depth in depths]
    return DepthController(CostTable(POINTS, features, network), options)


def curve(utterances: Sequence[Utterance], ms: Sequence[float]) -> tuple[float, ...]:
    """Return milliseconds at some lengths, by a parabola through those of the utterances."""
    fitted = np.polynomial.Polynomial.fit([one.seconds for one in utterances], ms, 2)
    return tuple(float(max(fitted(seconds), 0.1)) for seconds in POINTS)


def peer(file: Path, utterances: Sequence[Utterance]) -> list[Utterance]:
    """Return the utterances with another recogniser's costs and errors, as its only depth."""
    rows = read_rows(file)
    if [row["words"] for row in rows] != [one.words for one in utterances]:
        raise UserError(f"{file} is of other utterances; measure it again on the same cuts and lengths")
    return [Utterance(row["seconds"], row["words"], {1: row["ms"]}, {1: row["errors"]}) for row in rows]
