"""How often speech is marked as another language than the model's, by sets of recordings.

    python benchmarks/other_languages.py MODEL NAME=FOLDER [NAME=FOLDER ...] [--depth N] [--most 100] [--least 2.0]

Each folder has recordings of one language. Of each: how many are marked, as what, and quantiles of the mean posterior
of the tokens, by which checkpoints of English alone are judged.
"""

from __future__ import annotations

import argparse
import os
import random
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import soundfile

from layerdial import load_model
from layerdial.recognizer import Recognizer

SUFFIXES = (".wav", ".flac", ".opus", ".mp3")
QUANTILES = (0.01, 0.05, 0.5, 0.95)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--depth", type=int)
    parser.add_argument("--most", type=int, default=100, help="recordings of a set, drawn at random")
    parser.add_argument("--least", type=float, default=2.0, help="seconds of a recording")
    options = parser.parse_args()
    model = load_model(options.model, threads=1)
    for name, _, folder in (one.partition("=") for one in options.sets):
        print(name, judged(model, drawn(Path(folder), options.most, options.least), options.depth), flush=True)


def drawn(folder: Path, most: int, least: float) -> list[Path]:
    """Return at most so many recordings of a folder and those below it."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in SUFFIXES)
    files = [file for file in files if soundfile.info(file).duration >= least]
    return random.Random(0).sample(files, min(most, len(files)))


def judged(model: Recognizer, files: list[Path], depth: int | None) -> str:
    """Return a line about the recordings of a set; those without text are left out."""
    found = [model.transcribe(file, depth=depth) for file in files]
    found = [one for one in found if one.text]
    marks = Counter(one.other_language for one in found if one.other_language)
    confidence = [chunk.confidence for one in found for chunk in one.chunks if chunk.confidence is not None]
    quantiles = " ".join(f"{value:.2f}" for value in np.quantile(confidence or [np.nan], QUANTILES))
    return f"{sum(marks.values())} of {len(found)} marked {dict(marks.most_common(4))}; confidence {quantiles}"


if __name__ == "__main__":
    main()
