"""What the tests of the runtime share: audio, a recogniser that believes in other costs, damage to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from layerdial import BlockSubset
from layerdial.audio.files import SAMPLE_RATE
from layerdial.runtime import Recognizer
from layerdial.runtime.controller import CostTable, DepthController, worthwhile
from tiny import sentences, speak

TEXT = "low high middle high low low"
SAMPLES = speak(TEXT, seed=77)
EVERY_SUBSET = [BlockSubset.from_key(key) for key in ("001", "010", "100", "011", "101", "110", "111")]
LADDER = {1: "010", 2: "011", 3: "111"}
NEVER_MS = 1e9
# about 100 s of words, and 30 s of them
LONG_AUDIO = np.concatenate([speak(text, seed) for seed, text in enumerate(sentences(75, seed=5))])
HALF_A_MINUTE = LONG_AUDIO[: 30 * SAMPLE_RATE]


def controlled(folder: Path, network_ms: dict[int, float], features_ms: float = 0.01, cpu_share: float = 1.0) -> Any:
    """A recogniser that believes to need these milliseconds a second of audio."""
    recognizer = Recognizer(folder, threads=1)
    seconds = (1.0, 10.0)
    rows = {depth: tuple(ms * s for s in seconds) for depth, ms in network_ms.items()}
    table = CostTable(seconds, tuple(features_ms * s for s in seconds), rows, cpu_share)
    recognizer._controller = DepthController(table, worthwhile(recognizer.ladder, recognizer.n_blocks))
    return recognizer


def change(file: Path, **values: Any) -> None:
    """Replace values in a JSON file, as a person may who takes out its hash too; `...` takes one out."""
    stored = json.loads(file.read_text()) | {"record_sha256": ...} | values
    file.write_text(json.dumps({key: value for key, value in stored.items() if value is not ...}))


def cut(file: Path, share: float = 0.5) -> None:
    file.write_bytes(file.read_bytes()[: round(share * file.stat().st_size)])
