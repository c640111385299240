"""faster-whisper's time and errors on the utterances of `serving.py`, which puts it behind the same queue.

    python benchmarks/serving_peer.py CUTS FOLDER PEER.jsonl

FOLDER is a CTranslate2 model (`pip install faster-whisper`): greedy, English, int8, one thread. Milliseconds are
computing time of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from layerdial.audio.files import SAMPLE_RATE
from layerdial.evaluation.metrics import count_errors
from layerdial.text.normalise import normalise
from serving_speech import spoken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cuts", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--lengths", type=float, nargs=2, default=(2.0, 20.0), metavar=("FROM", "TO"), help="seconds")
    parser.add_argument("--utterances", type=int, default=200)
    options = parser.parse_args()
    from faster_whisper import WhisperModel

    model = WhisperModel(str(options.folder), device="cpu", compute_type="int8", cpu_threads=1)
    with options.out.open("w", encoding="utf-8") as out:
        for samples, text in spoken(options.cuts, options.lengths, options.utterances):
            start = time.process_time()
            segments, _ = model.transcribe(samples, language="en", beam_size=1, without_timestamps=True)
            found = "".join(segment.text for segment in segments)
            ms = 1000.0 * (time.process_time() - start)
            errors = count_errors(text, normalise(found)).errors
            row = {"seconds": len(samples) / SAMPLE_RATE, "words": len(text.split()), "ms": ms, "errors": errors}
            out.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
