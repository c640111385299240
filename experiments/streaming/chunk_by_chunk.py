"""WER chunk by chunk, as streams run, against whole utterances with the chunks masked, as dev scores and suites run.

    python experiments/streaming/chunk_by_chunk.py MODEL CUTS [--depths 1,4,8] [--chunk-ms 80,320,640]

The last row of each size changes depth with every chunk.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from layerdial.config.network import FRAME_MS
from layerdial.data.batching import FeatureBatches
from layerdial.evaluation.metrics import score, total
from layerdial.ladder import select_all
from layerdial.models.streaming import step_through, streaming_network
from layerdial.models.torch_recognizer import load_torch_model
from layerdial.recognizer import FeatureBatch
from layerdial.subset import ChunkSchedule
from layerdial.text.ctc import batch_texts
from layerdial.text.normalise import normalise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("cuts", type=Path)
    parser.add_argument("--depths", default="1,4,8")
    parser.add_argument("--chunk-ms", default="80,320,640")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = load_torch_model(asked.model)
    network = streaming_network(model.network, str(asked.model))
    batches: list[FeatureBatch] = list(FeatureBatches(asked.cuts, model.features, workers=0, by_length=True))
    subsets = select_all("", [int(depth) for depth in asked.depths.split(",")], model.n_blocks, model.ladder)
    for size in map(int, asked.chunk_ms.split(",")):
        for chosen in [*((subset,) for subset in subsets), tuple(subsets)]:
            schedule = ChunkSchedule((size // FRAME_MS,), chosen)
            references, masked, stepped, furthest = list[str](), list[str](), list[str](), 0.0
            for batch in batches:
                inputs, lengths_B = torch.from_numpy(batch.inputs), torch.from_numpy(batch.lengths_B)
                with torch.inference_mode():
                    one, other = (
                        network(inputs, lengths_B, schedule),
                        step_through(network, inputs, lengths_B, schedule),
                    )
                for output, texts in ((one, masked), (other, stepped)):
                    ids = output.log_probs_BTV.argmax(dim=-1).tolist()
                    texts += map(normalise, batch_texts(model.tokenizer.decode, ids, output.lengths_B.tolist()))
                references += map(normalise, batch.texts)
                for a, b, frames in zip(one.log_probs_BTV, other.log_probs_BTV, one.lengths_B.tolist(), strict=True):
                    furthest = max(furthest, float((a[:frames] - b[:frames]).abs().max()))
            counts = [total(score(zip(references, texts, strict=True))) for texts in (masked, stepped)]
            depths = ", ".join(str(subset.depth) for subset in chosen)
            print(
                f"{size} ms, depth {depths}: masked {counts[0].errors}, chunk by chunk {counts[1].errors} errors of "
                f"{counts[0].words} words; {sum(map(str.__ne__, masked, stepped))} of {len(masked)} texts differ, "
                f"log-probabilities by {furthest:.1e} at most",
                flush=True,
            )


if __name__ == "__main__":
    main()
