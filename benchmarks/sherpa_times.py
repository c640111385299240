"""Whole requests by layerdial beside sherpa-onnx with the same weights of Whisper, utterance by utterance, in turns.

    layerdial export MODEL edge --int8 && layerdial export MODEL sherpa --format sherpa-onnx --depth 6 --int8
    python benchmarks/sherpa_times.py CUTS OUT.jsonl int8=edge,sherpa [float32=edge-float,sherpa-float] [--depth 6]

One thread each, greedy, English. A row for each utterance and pair: median milliseconds of both, and whether the texts
are equal; an interrupted run goes on. Milliseconds are CPU time of the process unless `--clock wall`, for a machine
that does other things. Then the ratio of the medians over utterances.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from layerdial.audio.files import SAMPLE_RATE
from layerdial.data.manifest import load_samples, open_cuts
from layerdial.runtime import Recognizer
from layerdial.utils.rows import append_row, read_rows
from turns import CLOCKS, Run, in_turns
from whisper_peers import Transcribe, exported, sherpa

LONGEST = 29.0  # seconds: sherpa-onnx leaves out what is behind 29.5 s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cuts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("pairs", nargs="+", metavar="NAME=EXPORTED,SHERPA")
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--utterances", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    options = parser.parse_args()
    for pair in options.pairs:
        name, _, folders = pair.partition("=")
        ours, theirs = map(Path, folders.split(","))
        model = Recognizer(ours, threads=1)
        measure(options, name, {"layerdial": partial(exported, model, options.depth), "sherpa": sherpa(theirs)})
        report(options.out, name)


def measure(options: argparse.Namespace, name: str, programs: dict[str, Transcribe]) -> None:
    """Append a row for each utterance of a random sample that has none yet."""
    cuts = [cut for cut in open_cuts(options.cuts) if cut.duration <= LONGEST]
    done = {row["id"] for row in read_rows(options.out) if row["pair"] == name}
    for cut in random.Random(0).sample(cuts, options.utterances):
        if cut.id in done:
            continue
        samples = load_samples(cut)
        texts = {str(program(samples)["text"]).strip() for program in programs.values()}
        runs: dict[str, Run] = {who: partial(program, samples) for who, program in programs.items()}
        row = {"pair": name, "id": cut.id, "seconds": round(len(samples) / SAMPLE_RATE, 2), "clock": options.clock}
        row |= in_turns(runs, options.repeats, CLOCKS[options.clock])
        append_row(options.out, row | {"same_text": len(texts) == 1})


def report(out: Path, name: str) -> None:
    """Print the ratio of the medians of a pair, and the quartiles of the ratio by utterance."""
    rows = [row for row in read_rows(out) if row["pair"] == name]
    ours, theirs = (statistics.median(row[who] for row in rows) for who in ("layerdial", "sherpa"))
    quartiles = np.quantile([row["sherpa"] / row["layerdial"] for row in rows], (0.25, 0.5, 0.75))
    print(f"{name}: {ours:.0f} ms layerdial, {theirs:.0f} ms sherpa-onnx: {theirs / ours:.2f} times as long")
    same = sum(row["same_text"] for row in rows)
    print(f"  by utterance (quartiles) {np.round(quartiles, 2).tolist()}; {same} of {len(rows)} texts are equal")


if __name__ == "__main__":
    main()
