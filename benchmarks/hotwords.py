"""Hotwords on real speech: words of a corpus that a model gets wrong, with distractors, and WER with and without them.

    python benchmarks/hotwords.py MODEL CUTS [--depth N] [--beams N] [--weight W ...]

Hotwords are the words of six letters or more, said at most three times, that the model without hotwords misses at least
once, and as many others that it does not miss. Chosen and measured on the same data, so the gain is an upper bound.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from layerdial.data.manifest import cut_text, load_samples, open_cuts
from layerdial.evaluation.load import load_model
from layerdial.evaluation.metrics import score, total
from layerdial.recognizer import Recognizer
from layerdial.request import Request
from layerdial.text.normalise import normalise

_LONG, _RARE = 6, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("cuts", type=Path)
    parser.add_argument("--depth", type=int)
    parser.add_argument("--beams", type=int)
    parser.add_argument("--weight", type=float, action="append")
    options = parser.parse_args()
    recognizer = load_model(options.model, threads=1)
    cuts = [(load_samples(cut), normalise(cut_text(cut))) for cut in open_cuts(options.cuts)]
    request = Request(options.depth, beams=options.beams)
    plain = recognised(recognizer, cuts, request)
    missed, others = chosen([text for _, text in cuts], plain)
    print(f"{len(missed)} words missed at least once, {len(others)} distractors")
    report("without", cuts, plain, missed, others)
    for weight in options.weight or (1.0,):
        found = recognised(recognizer, cuts, replace(request, hotwords=dict.fromkeys((*missed, *others), weight)))
        report(f"weight {weight:g}", cuts, found, missed, others)


def recognised(recognizer: Recognizer, cuts: list, request: Request) -> list[str]:  # type: ignore[type-arg]
    start = time.perf_counter()
    texts = [normalise(recognizer.answer(samples, request).text) for samples, _ in cuts]
    print(f"{time.perf_counter() - start:.1f} s", end="  ")
    return texts


def chosen(references: list[str], found: list[str]) -> tuple[list[str], list[str]]:
    """Return rare long words that were missed, and as many that were not."""
    counts = Counter(word for text in references for word in text.split())
    rare = sorted(word for word, count in counts.items() if len(word) >= _LONG and count <= _RARE)
    lost = {
        word for text, other in zip(references, found, strict=True) for word in set(text.split()) - set(other.split())
    }
    missed = [word for word in rare if word in lost]
    others = [word for word in rare if word not in lost]
    return missed, others[:: max(1, len(others) // max(1, len(missed)))][: len(missed)]


def report(name: str, cuts: list, found: list[str], missed: list[str], others: list[str]) -> None:  # type: ignore[type-arg]
    references = [text for _, text in cuts]
    errors = total(score(zip(references, found, strict=True)))
    print(f"{name}: WER {errors.rate:.2%} ({errors.errors})", end="")
    for label, words in (("missed words", missed), ("distractors", others)):
        said, right, wrong = recall(references, found, set(words))
        print(f"; {label}: {right} of {said} found, {wrong} written where not said", end="")
    print()


def recall(references: list[str], found: list[str], words: set[str]) -> tuple[int, int, int]:
    said = right = wrong = 0
    for text, other in zip(references, found, strict=True):
        there = Counter(word for word in text.split() if word in words)
        written = Counter(word for word in other.split() if word in words)
        said, right, wrong = said + there.total(), right + (there & written).total(), wrong + (written - there).total()
    return said, right, wrong


if __name__ == "__main__":
    main()
