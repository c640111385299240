"""int8 that does not hurt: WER of every depth beside float's, and the blocks that must stay in float found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir

from layerdial.evaluate import FeatureBatch, evaluate
from layerdial.export.folder import Traced, write_folder
from layerdial.export.precision import to_int8
from layerdial.runtime.recognizer import Recognizer
from layerdial.subset import BlockSubset

TOLERANCE = 0.02
_PROBE_BATCHES = 4
Note = Callable[[str], None]


@dataclass(frozen=True)
class Int8:
    """The quantised graph, the blocks left in float, and errors at each depth: `rows` for the manifest."""

    model: ir.Model
    float_blocks: tuple[int, ...]
    rows: tuple[dict[str, Any], ...]

    @property
    def holds(self) -> bool:
        """Whether no depth is more than 2 % (relative) worse than in float."""
        return all(row["int8_errors"] <= (1 + TOLERANCE) * row["float_errors"] for row in self.rows)


def quantise(traced: Traced, batches: Iterable[FeatureBatch], note: Note = print) -> Int8:
    """Quantise all blocks; while some depth is over 2 % worse in WER, give the block that hurts most back to float.

    `batches` is gone through once a depth and trial. With every block in float the head alone is quantised.
    """
    kept = list(batches)
    with TemporaryDirectory() as folder:
        place = Path(folder)
        float_model = _load(traced, traced.model, place / "float")
        float_errors = _errors(float_model, kept)
        order: list[int] | None = None
        float_blocks: tuple[int, ...] = ()
        while True:
            found = _trial(traced, kept, float_blocks, float_errors, place)
            note(_describe(found))
            if found.holds or len(float_blocks) == traced.manifest.n_blocks:
                return found
            if order is None:
                order = _most_hurt_first(traced, float_model, kept[:_PROBE_BATCHES], place)
            float_blocks = tuple(sorted(order[: len(float_blocks) + 1]))


def _trial(
    traced: Traced, batches: list[FeatureBatch], float_blocks: tuple[int, ...], float_errors: list[int], place: Path
) -> Int8:
    model = to_int8(traced.model, float_blocks)
    recognizer = _load(traced, model, place / "int8")
    errors = _errors(recognizer, batches)
    words = sum(len(text.split()) for batch in batches for text in batch.texts)
    rows = [
        {"depth": depth, "float_errors": before, "int8_errors": after, "words": words}
        for depth, (before, after) in enumerate(zip(float_errors, errors, strict=True), 1)
    ]
    return Int8(model, float_blocks, tuple(rows))


def _most_hurt_first(
    traced: Traced, float_model: Recognizer, batches: Sequence[FeatureBatch], place: Path
) -> list[int]:
    """Blocks by how far the posteriors move, as KL divergence, when each alone is quantised."""
    n_blocks = traced.manifest.n_blocks
    hurt = []
    for block in range(n_blocks):
        others = [i for i in range(n_blocks) if i != block]
        alone = _load(traced, to_int8(traced.model, others), place / "one")
        hurt.append(sum(_divergence(float_model, alone, batch) for batch in batches))
    return sorted(range(n_blocks), key=lambda block: -hurt[block])


def _divergence(before: Recognizer, after: Recognizer, batch: FeatureBatch) -> float:
    full = BlockSubset.full(before.n_blocks)
    p_BTV, frames_B = before.session.posteriors(batch.inputs, batch.lengths_B, full)
    q_BTV, _ = after.session.posteriors(batch.inputs, batch.lengths_B, full)
    pairs = zip(p_BTV, q_BTV, frames_B, strict=True)
    return float(sum((np.exp(p[:n]) * (p[:n] - q[:n])).sum() for p, q, n in pairs))


def _errors(recognizer: Recognizer, batches: list[FeatureBatch]) -> list[int]:
    """Word errors at each depth of the ladder."""
    depths = range(1, recognizer.n_blocks + 1)
    return [evaluate(recognizer, batches, recognizer.subset(depth)).wer.errors for depth in depths]


def _load(traced: Traced, model: ir.Model, folder: Path) -> Recognizer:
    write_folder(folder, traced, model.clone(), replace(traced.manifest, precision="trial"))
    return Recognizer(folder, threads=1)


def _describe(found: Int8) -> str:
    worst = max(found.rows, key=lambda row: row["int8_errors"] / max(row["float_errors"], 1))
    where = f"worst at depth {worst['depth']}: {worst['int8_errors']} errors, in float {worst['float_errors']}"
    return f"int8 with {len(found.float_blocks)} blocks in float: {where}"
