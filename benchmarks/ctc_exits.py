"""WER of a CTC model with exits after its first blocks: all depths of one pass, in bfloat16.

    python benchmarks/ctc_exits.py CUTS OUT.jsonl NAME=MODEL

Depth n is the first n blocks, greedy, normaliser `basic`. A row for each depth is appended to OUT, with the errors and
words of each utterance. `layerdial sweep` measures the same in float32, depth by depth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from layerdial.data.batching import FeatureBatches
from layerdial.evaluation.evaluate import Evaluation
from layerdial.models.torch_recognizer import TorchRecognizer, load_torch_model
from layerdial.recognizer import FeatureBatch, by_utterance
from layerdial.subset import BlockSubset
from layerdial.text.ctc import batch_texts
from layerdial.utils.rows import append_row
from whisper_dial import counts


@torch.inference_mode()
def texts_of_depths(recognizer: TorchRecognizer, batch: FeatureBatch) -> list[list[str]]:
    """Return the texts of a batch after each block, the first block's first."""
    n_blocks, lengths_B = recognizer.n_blocks, torch.from_numpy(batch.lengths_B)
    with torch.autocast("cpu", torch.bfloat16):
        output = recognizer.network(
            torch.from_numpy(batch.inputs), lengths_B, BlockSubset.full(n_blocks), exits=range(1, n_blocks)
        )
    frames, decode = output.lengths_B.tolist(), recognizer.tokenizer.decode
    outputs = [*output.exits_BTV, output.log_probs_BTV]
    return [batch_texts(decode, logp_BTV.argmax(dim=-1).tolist(), frames) for logp_BTV in outputs]


def evaluations(recognizer: TorchRecognizer, batches: FeatureBatches) -> list[Evaluation]:
    """Return an evaluation for each depth, the shallowest first."""
    found: list[list[tuple[str, str, str]]] = [[] for _ in range(recognizer.n_blocks)]
    seconds = 0.0
    for batch in batches:
        for rows, texts in zip(found, texts_of_depths(recognizer, batch), strict=True):
            rows += by_utterance(batch, texts)
        seconds += batch.audio_seconds
    return [_evaluation(rows, seconds) for rows in found]


def _evaluation(rows: list[tuple[str, str, str]], seconds: float) -> Evaluation:
    ids, texts, recognized = zip(*rows, strict=True)
    return Evaluation(ids, texts, recognized, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cuts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("model", metavar="NAME=MODEL")
    options = parser.parse_args()
    name, _, folder = options.model.partition("=")
    recognizer = load_torch_model(Path(folder))
    batches = FeatureBatches(options.cuts, recognizer.features, 60.0, by_length=True)
    for depth, evaluation in enumerate(evaluations(recognizer, batches), 1):
        subset = BlockSubset.prefix(recognizer.n_blocks, depth)
        row = {"method": name, "depth": depth, "subset": subset.key, "cuts": options.cuts.name, "precision": "bf16"}
        basic = {**counts(evaluation, "basic"), "cer": evaluation.cer.rate}
        append_row(options.out, row | {"basic": basic})
        print(f"{name} depth {depth}: WER {100 * basic['wer']:.2f} %, CER {100 * basic['cer']:.2f} %", flush=True)


if __name__ == "__main__":
    main()
