"""Normalisation by a running mean, which layerdial does not have: the alternative to `normalise: fixed` in streams.

    python experiments/streaming/running_norm.py train RECIPE.yaml [--set KEY=VALUE]
    python experiments/streaming/running_norm.py measure MODEL CUTS OUT.jsonl [--running] [--gain -12] [--chunk-ms 320]

The mean of each mel bin is that of all frames so far; the corpus's mean counts as two seconds before them. `measure`
prints WER at other levels: a gain in dB adds a constant to log-mel.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from layerdial.modules.normalisation import FixedNorm
from layerdial.modules.subsampling import frame_mask

PRIOR = 200  # frames of 10 ms


def running_forward(norm: FixedNorm, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
    """Shift each frame by the mean of the frames up to it and of the corpus; scale it by the corpus's deviation."""
    mask_BT1 = frame_mask(lengths_B, x_BTF.shape[1]).unsqueeze(2)
    offset_BTF = (x_BTF.float() - norm.mean_F).masked_fill(~mask_BT1, 0.0)
    count_T1 = torch.arange(1, x_BTF.shape[1] + 1, device=x_BTF.device).unsqueeze(1)
    centred_BTF = offset_BTF - offset_BTF.cumsum(1) / (PRIOR + count_T1)
    return (centred_BTF * norm.scale_F).masked_fill(~mask_BT1, 0.0)


@contextmanager
def running() -> Iterator[None]:
    """Let networks with `normalise: fixed` that run within have a running mean, over whole utterances."""
    before = FixedNorm.forward
    FixedNorm.forward = running_forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        FixedNorm.forward = before  # type: ignore[method-assign]


def measure() -> None:
    from layerdial.data.batching import FeatureBatches
    from layerdial.evaluation.evaluate import evaluate
    from layerdial.evaluation.sweep import measure_errors
    from layerdial.ladder import select_all
    from layerdial.models.torch_recognizer import load_torch_model
    from layerdial.subset import ChunkSchedule
    from layerdial.utils.rows import append_row

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "cuts", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--running", action="store_true")
    parser.add_argument("--gain", type=float, nargs="+", default=[0.0, -12.0, -24.0, 12.0])
    parser.add_argument("--chunk-ms", type=int, default=320)
    asked = parser.parse_args(sys.argv[2:])
    torch.set_num_threads(1)
    model = load_torch_model(asked.model)
    plain = list(FeatureBatches(asked.cuts, model.features, workers=0, by_length=True))
    for gain in asked.gain:
        shift = gain * math.log(10) / 10
        batches = [replace(batch, inputs=batch.inputs + shift) for batch in plain]
        for subset in select_all("", [1, 8], model.n_blocks, model.ladder):
            with running() if asked.running else nullcontext():
                found = evaluate(model, batches, ChunkSchedule((asked.chunk_ms // 40,), (subset,)))
            row = {"normalise": "running" if asked.running else "fixed", "gain_db": gain, "depth": subset.depth}
            row |= {"model": str(asked.model), "cuts": asked.cuts.name, "chunk_ms": asked.chunk_ms}
            row |= measure_errors(found)
            append_row(asked.out, row)
            print({name: row[name] for name in ("normalise", "gain_db", "depth", "wer", "errors", "words")}, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure()
    else:
        from layerdial.cli.app import main

        with running():
            main()
