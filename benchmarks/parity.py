"""The texts of a model in torch and of its export, over the utterances of a manifest, with those that differ.

    python benchmarks/parity.py MODEL EXPORTED CUTS OUT.jsonl [--depth N] [--skip N]

MODEL is a torch model, EXPORTED what `layerdial export` made of it. Each utterance is transcribed by both, at the depth
asked for (else all blocks), and a row is appended to OUT at once; an interrupted run goes on. `--skip` leaves out the
first utterances, which another run has.
"""

from __future__ import annotations

import argparse
import os
from itertools import islice
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from layerdial import load_model
from layerdial.data.manifest import load_samples, open_cuts
from layerdial.recognizer import Recognizer
from layerdial.utils.rows import append_row, read_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "exported", "cuts", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--depth", type=int)
    parser.add_argument("--skip", type=int, default=0)
    options = parser.parse_args()
    model, exported = (load_model(str(folder), threads=1) for folder in (options.model, options.exported))
    compare(model, exported, options)
    report(options.out)


def compare(model: Recognizer, exported: Recognizer, options: argparse.Namespace) -> None:
    """Append a row for each utterance that has none yet."""
    done = {row["id"] for row in read_rows(options.out)}
    for cut in islice(open_cuts(options.cuts), options.skip, None):
        if cut.id not in done:
            samples = load_samples(cut)
            texts = (one.transcribe(samples, depth=options.depth).text for one in (model, exported))
            append_row(options.out, dict(zip(("id", "torch", "exported"), (cut.id, *texts), strict=True)))


def report(out: Path) -> None:
    """Print the utterances whose texts differ, and how many there are."""
    rows = list(read_rows(out))
    differ = [row for row in rows if row["torch"] != row["exported"]]
    for row in differ:
        print(f"{row['id']}\n  torch:    {row['torch']}\n  exported: {row['exported']}")
    print(f"{len(rows) - len(differ)} of {len(rows)} texts are equal")


if __name__ == "__main__":
    main()
