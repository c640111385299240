"""Small recordings, tables and manifests for the tests of the corpora."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment

from layerdial.data.manifest import cut_text, open_cuts

RNG = np.random.default_rng(0)


def write_audio(path: Path, seconds: float = 1.0, rate: int = 16000, channels: int = 1, **how: str) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = (RNG.standard_normal((round(seconds * rate), channels)) * 0.1).astype(np.float32)
    soundfile.write(path, samples, rate, **how)
    return samples


def shorten(path: Path, part: float = 0.6) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])


def write_table(path: Path, rows: Sequence[Sequence[str]], head: str = "file_name,transcription,speaker_id") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head.split(","), *rows])


def texts(path: Path) -> dict[str, str]:
    return {cut.id: cut_text(cut) for cut in open_cuts(path)}


def reasons(out: Path) -> dict[str, str]:
    lines = (out / "rejected.jsonl").read_text().splitlines()
    return {row["id"]: row["reason"] for row in map(json.loads, lines)}


def many_cuts(count: int) -> Iterator[MonoCut]:
    for i in range(count):
        name = f"speaker{i % 50}-{i:07d}"
        source = AudioSource(type="file", channels=[0], source=f"/corpus/{name}.flac")
        recording = Recording(name, [source], 16000, 32000, 2.0)
        segment = SupervisionSegment(name, name, 0.0, 2.0, text="some words to read", speaker=f"speaker{i % 50}")
        yield MonoCut(name, 0.0, 2.0, 0, supervisions=[segment], recording=recording)
