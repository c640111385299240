"""A streaming model of random weights that writes letters, spaces and pauses, and streams of it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.recognition.stream_results import StreamResult
from layerdial.recognition.streaming import Stream
from layerdial.recognizer import collate_features
from layerdial.text.tokenizer import ListTokenizer
from tiny import tiny_config

LETTERS = ["<blk>", "▁", *"abcde"]
SECOND = 16_000


@cache
def streaming_recognizer(seed: int = 2, **changes: Any) -> TorchRecognizer:
    """Three blocks, 0.4 s of left context; the head is moved so that every token comes, and the blank most often."""
    torch.manual_seed(seed)
    settings = {
        "n_blocks": 3,
        "width": 16,
        "ffn_width": 32,
        "normalise": "fixed",
        "streaming": {"left_context_ms": 400},
    }
    network = ConformerCTC(tiny_config(**{**settings, **changes}), len(LETTERS)).eval()
    recognizer = TorchRecognizer(network, ListTokenizer(LETTERS, "char"), name="streaming")
    batch = collate_features([""], [network.features(sound(4.0))], [""], 0.0)
    with torch.no_grad():
        network.head.weight *= 3.0
        network.head.bias -= torch.from_numpy(recognizer.log_probs(batch, recognizer.subset())[0].mean(axis=0))
        network.head.bias[0] += 1.0
        network.head.bias[1] += 0.3
    return recognizer


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose colour and level change, so that a network of random weights writes many texts of it."""
    rng = np.random.default_rng(seed)
    parts = [np.zeros(0)]
    for _ in range(round(seconds * 10)):
        hertz, level = rng.uniform(100, 4000), rng.uniform(0.01, 0.3)
        tone = np.sin(2 * np.pi * hertz * np.arange(SECOND // 10) / SECOND)
        parts.append(level * (tone + 0.3 * rng.standard_normal(SECOND // 10)))
    return np.concatenate(parts).astype(np.float32)


def parts_of(samples: np.ndarray, cuts: Iterable[int]) -> list[np.ndarray]:
    return [samples[first:end] for first, end in pairwise([0, *cuts, len(samples)])]


def random_parts(samples: np.ndarray, rng: random.Random) -> list[np.ndarray]:
    """Samples in parts of any size, some of them empty or of one sample."""
    cuts = [rng.randrange(len(samples) + 1) for _ in range(rng.randint(1, 30))]
    return parts_of(samples, sorted([*cuts, cuts[0], min(len(samples), cuts[0] + 1)]))


def results_of(stream: Stream, parts: Sequence[np.ndarray], rate: int = SECOND) -> list[StreamResult]:
    """All results of a stream of these parts, from its begin to its end."""
    found = [result for part in parts for result in stream.accept(part, rate)]
    return found + stream.finish()
