"""The cost of a CTC beam search relative to the network, and WER with and without a language model at every depth.

    python benchmarks/beams.py MODEL CUTS [--lm FILE] [--utterances N]

MODEL is an exported CTC model. The search is of 8 beams with three hotwords that its tokens spell.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from layerdial.data.manifest import cut_text, load_samples, open_cuts
from layerdial.evaluation.metrics import score, total
from layerdial.ladder import depths_of
from layerdial.request import Request
from layerdial.runtime import Recognizer
from layerdial.text.normalise import normalise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("cuts", type=Path)
    parser.add_argument("--lm")
    parser.add_argument("--utterances", type=int, default=200)
    options = parser.parse_args()
    model = Recognizer(options.model, threads=1)
    model.warm_up()
    cuts = [
        (load_samples(cut), normalise(cut_text(cut))) for cut in list(open_cuts(options.cuts))[: options.utterances]
    ]
    words = sorted({word for _, text in cuts for word in text.split()})[:3]
    for depth in depths_of(model.ladder, model.n_blocks):
        greedy = Request(depth)
        wishes = {"greedy": greedy, "8 beams, hotwords": replace(greedy, beams=8, hotwords=words)}
        if options.lm:
            wishes |= {"lm": replace(greedy, lm=options.lm)}
        print(f"depth {depth}", end="")
        for name, request in wishes.items():
            seconds, texts = timed(model, cuts, request)
            errors = total(score(zip([text for _, text in cuts], texts, strict=True)))
            print(f"; {name}: WER {errors.rate:.2%} ({errors.errors}), {1000 * seconds:.2f} ms", end="")
        print()


def timed(model: Recognizer, cuts: list, request: Request) -> tuple[float, list[str]]:  # type: ignore[type-arg]
    times, texts = [], []
    for samples, _ in cuts:
        start = time.perf_counter()
        texts.append(normalise(model.answer(samples, request).text))
        times.append(time.perf_counter() - start)
    return median(times), texts


if __name__ == "__main__":
    main()
