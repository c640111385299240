"""WER of dynamic Whisper models at each depth, in bfloat16, with paired intervals between models.

    python benchmarks/whisper_dial.py dev.cuts.jsonl.gz OUT ld=runs/whisper/ld/model dld=runs/whisper/dld/model

The first model is what the others are compared with. Rows and the errors of each utterance are written to OUT as they
are made; what is there is not measured again. `layerdial sweep` measures the same in float32, three times as slowly.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from layerdial.data.batching import FeatureBatches
from layerdial.evaluation.evaluate import Evaluation, evaluate
from layerdial.evaluation.metrics import bootstrap_interval, paired_change
from layerdial.models.torch_recognizer import load_torch_model
from layerdial.text.normalisers import Normalizer
from layerdial.utils.rows import Row, append_row, read_rows

NORMALIZERS: tuple[Normalizer, ...] = ("basic", "whisper-english")


def measure(name: str, folder: Path, cuts: Path, depths: list[int], out: Path) -> None:
    """Append a row for each depth that has none yet, with the errors and words of each utterance."""
    known = {(row["method"], row["depth"]) for row in read_rows(out)}
    recognizer = load_torch_model(folder)
    recognizer.network.to(torch.bfloat16)
    batches = FeatureBatches(cuts, recognizer.features, 120.0, by_length=True)
    for depth in [depth for depth in depths if (name, depth) not in known and depth <= recognizer.n_blocks]:
        subset = recognizer.subset(depth)  # the ladder's: the blocks that training ran at this depth
        evaluation = evaluate(recognizer, batches, subset)
        row = {"method": name, "depth": depth, "subset": subset.key, "cuts": cuts.name, "precision": "bf16"}
        append_row(out, row | {normalizer: counts(evaluation, normalizer) for normalizer in NORMALIZERS})
        print(show(read_rows(out)[-1]), flush=True)


def counts(evaluation: Evaluation, normalizer: Normalizer) -> dict[str, Any]:
    """Return errors and words of the corpus and of each utterance, in the order of their ids."""
    found = evaluation.normalized_by(normalizer)
    pairs = sorted(zip(found.ids, found.word_counts, strict=True))
    errors, words = [count.errors for _, count in pairs], [count.words for _, count in pairs]
    low, high = bootstrap_interval(errors, words)
    kinds = {"substitutions": found.wer.substitutions, "deletions": found.wer.deletions}
    rates = {"wer": found.wer.rate, "wer_low": low, "wer_high": high, "errors": sum(errors), "words": sum(words)}
    return rates | kinds | {"errors_of_each": errors, "words_of_each": words}


def show(row: Row) -> str:
    """Return a line about a row."""
    said = [
        f"{n} {100 * row[n]['wer']:.2f} ({100 * row[n]['wer_low']:.2f}-{100 * row[n]['wer_high']:.2f})"
        for n in NORMALIZERS
    ]
    return (
        f"{row['method']} depth {row['depth']}: {', '.join(said)}; {row['basic']['errors']} of {row['basic']['words']}"
    )


def compare(rows: list[Row], first: str) -> None:
    """Print the relative change of WER of each other model against the first, depth by depth."""
    base = {row["depth"]: row for row in rows if row["method"] == first}
    for row in rows:
        if row["method"] != first and row["depth"] in base:
            a, b = base[row["depth"]]["basic"], row["basic"]
            change = paired_change(a["errors_of_each"], a["words_of_each"], b["errors_of_each"])
            interval = f"({change.low:+.1%} to {change.high:+.1%})"
            print(f"{row['method']} against {first}, depth {row['depth']}: {change.relative:+.1%} {interval}")


def main() -> None:
    """Measure each NAME=FOLDER and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("cuts", type=Path)
    parser.add_argument("out", type=Path, help="such as rows.jsonl")
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--depths", type=int, nargs="+", default=[6, 5, 4, 3, 2])
    options = parser.parse_args()
    named = [model.partition("=")[::2] for model in options.models]
    for name, folder in named:
        measure(name, Path(folder), options.cuts, options.depths, options.out)
    compare(read_rows(options.out), named[0][0])


if __name__ == "__main__":
    main()
