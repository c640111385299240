"""How many texts of a streaming model are the same in sherpa-onnx's online recogniser, with the same weights.

    layerdial export MODEL SHERPA --streaming --format sherpa-onnx --depth 4 --chunk-ms 320
    python benchmarks/sherpa_streams.py MODEL SHERPA CUTS --depth 4 --chunk-ms 320

Faint noise is put behind each cut, since sherpa-onnx hears whole chunks alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import sherpa_onnx
from numpy.typing import NDArray

from layerdial import load_model
from layerdial.audio.files import SAMPLE_RATE
from layerdial.data.manifest import load_samples, open_cuts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("sherpa", type=Path)
    parser.add_argument("cuts", type=Path)
    parser.add_argument("--depth", type=int, required=True)
    parser.add_argument("--chunk-ms", type=int, required=True)
    options = parser.parse_args()
    files = {"tokens": str(options.sherpa / "tokens.txt"), "model": str(options.sherpa / "model.onnx")}
    theirs = sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc(**files, num_threads=1, sample_rate=SAMPLE_RATE)
    ours = load_model(options.model)
    tail = np.random.default_rng(0).normal(0.0, 1e-3, round(SAMPLE_RATE * (options.chunk_ms / 1000 + 0.1)))
    same = total = 0
    for cut in open_cuts(options.cuts):
        samples = np.concatenate([load_samples(cut), tail.astype(np.float32)])
        stream = ours.stream(depth=options.depth, chunk_ms=options.chunk_ms, endpoints=None)
        results = [result for result in [*stream.accept(samples), *stream.finish()] if result.final]
        texts = spaced(results[-1].text if results else ""), heard(theirs, samples)
        same, total = same + (texts[0] == texts[1]), total + 1
        if texts[0] != texts[1]:
            print(f"{cut.id}\n  ours   {texts[0]}\n  theirs {texts[1]}")
    print(f"{same} of {total} texts are the same")


def heard(recognizer: Any, samples: NDArray[np.float32]) -> str:
    stream = recognizer.create_stream()
    stream.accept_waveform(SAMPLE_RATE, samples)
    stream.input_finished()
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    return spaced(recognizer.get_result(stream))


def spaced(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main()
