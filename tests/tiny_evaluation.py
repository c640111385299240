"""Recognisers whose errors are functions of the subset, one that is a real network, what they listen to, and rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import torch

from layerdial.audio.features import LogMel
from layerdial.cost import Cost
from layerdial.evaluation.latency import Timing
from layerdial.ladder import select_all
from layerdial.recognizer import FeatureBatch, collate_features
from layerdial.subset import BlockSubset

QUICK = Timing(seconds=0.2, warmup=0, repeats=1)
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class Corpus(list[FeatureBatch]):
    """Batches of which nothing had to be left out."""

    rejected = ()


def make_batches(utterances: int = 6, text: str = " ".join(WORDS)) -> Corpus:
    """Batches of two utterances of ten words."""
    features = np.zeros((20, 80), dtype=np.float32)
    return Corpus(
        collate_features([f"u{n}", f"u{n + 1}"], [features, features], [text, text], 0.4)
        for n in range(0, utterances, 2)
    )


class Scripted:
    """A recogniser whose loss and wrong words (0 to 10 an utterance) are given by functions of the subset."""

    name, device, threads, has_loss, ladder = "scripted", "cpu", 1, True, None
    writes_apart = False
    features = LogMel(4)

    def __init__(
        self, n_blocks: int, loss: Callable[[BlockSubset], float], wrong: Callable[[BlockSubset], int]
    ) -> None:
        self.n_blocks, self.loss_of, self.wrong = n_blocks, loss, wrong
        self.calls: Counter[str] = Counter()

    def recognize(self, batch: FeatureBatch, subset: BlockSubset) -> list[str]:
        self.calls[subset.key] += batch.ids[0] == "u0"
        wrong = self.wrong(subset)
        return [" ".join(["no"] * wrong + text.split()[wrong:]) for text in batch.texts]

    def subset(self, depth: int | None = None) -> BlockSubset:
        return select_all("even", [depth or self.n_blocks], self.n_blocks)[0]

    def cost(self, subset: BlockSubset) -> Cost:
        return Cost(parameters=100 * subset.depth, macs_per_second=1e6 * subset.depth)

    def pass_over(self, batch: FeatureBatch, subset: BlockSubset) -> Callable[[], object]:
        return lambda: sum(range(10_000))

    def loss(self, batch: FeatureBatch, subset: BlockSubset) -> float:
        return self.loss_of(subset) * len(batch.ids)

    def loss_and_text(self, batch: FeatureBatch, subset: BlockSubset) -> tuple[float, list[str]]:
        return self.loss(batch, subset), self.recognize(batch, subset)


def rugged(n_blocks: int, seed: int) -> Scripted:
    """Loss and errors without any structure: what greedy removal is worst at."""
    return Scripted(
        n_blocks,
        loss=lambda subset: Random(f"loss {seed} {subset.key}").random(),
        wrong=lambda subset: Random(f"wrong {seed} {subset.key}").randint(0, 10),
    )


def additive(weights: list[float]) -> Scripted:
    """Each block kept takes its weight off the loss, so greedy removal finds the optimum."""
    return Scripted(
        len(weights),
        loss=lambda subset: 10 - sum(weights[block] for block in subset.kept),
        wrong=lambda subset: 10 - subset.depth,
    )


def tiny_recognizer() -> Any:
    from layerdial.config.network import ConformerConfig
    from layerdial.models.conformer_ctc import ConformerCTC
    from layerdial.models.torch_recognizer import TorchRecognizer
    from layerdial.text.tokenizer import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer("word", [" ".join(WORDS)], None)
    config = ConformerConfig.model_validate({"n_blocks": 3, "width": 16, "heads": 2, "ffn_width": 16, "kernel": 5})
    return TorchRecognizer(ConformerCTC(config, len(tokenizer.tokens)).eval(), tokenizer)


def real_batches() -> Corpus:
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(frames, 80)).astype(np.float32) for frames in (120, 90)]
    return Corpus([collate_features(["a", "b"], features, ["one two three", "four"], 2.1)])


def make_row(depth: int = 2, **changes: Any) -> dict[str, Any]:
    row = {"subset": "1" * depth + "0" * (4 - depth), "depth": depth, "wer": 0.25 / depth, "wer_low": 0.2 / depth}
    row |= {"wer_high": 0.3 / depth, "errors": 25, "words": 100, "cer": 0.1, "macs_per_second": 2e7 * depth}
    return row | {"parameters": 1_000_000 * depth, "latency_ms": 3.0 * depth, "rtf": 0.001 * depth} | changes
