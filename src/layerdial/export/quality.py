"""int8 with a check: WER of every depth beside float's, and a search for the blocks that must stay in float.

A streaming graph is checked in chunks: of the size for files, or, where that is the whole, of the largest in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from layerdial.evaluation.evaluate import evaluate
from layerdial.evaluation.metrics import paired_change
from layerdial.export.precision import to_int8
from layerdial.export.writer import Traced, write_folder
from layerdial.ladder import depths_of
from layerdial.recognizer import FeatureBatch
from layerdial.runtime.recognizer import OnnxRecognizer
from layerdial.runtime.token_decoding import TokenDecoding
from layerdial.subset import BlockSubset
from layerdial.text.normalise import normalise
from layerdial.utils.temporary import temporary_folder

TOLERANCE = 0.02
_CHANGE = {"change": "relative", "low": "low", "high": "high"}
_PROBE_BATCHES = 4
Note = Callable[[str], None]


@dataclass(frozen=True)
class Int8:
    """The quantised graphs, the blocks left in float, and errors at each depth: `rows` for the manifest."""

    model: ir.Model
    float_blocks: tuple[int, ...]
    rows: tuple[dict[str, Any], ...]
    decoder: ir.Model | None = None

    @property
    def holds(self) -> bool:
        """True where all depths together are at most 2 % (relative) worse than float, and none is worse beyond chance.

        A single depth may have 27 errors where float has 26, which is 4 % but not significant. So it counts against
        int8 only where the 95 % interval of the paired change does not contain "no change".
        """
        before = sum(row["float_errors"] for row in self.rows)
        after = sum(row["int8_errors"] for row in self.rows)
        worse = [row for row in self.rows if row["change"] > TOLERANCE and row["low"] > 0.0]
        return after <= (1 + TOLERANCE) * before and not worse


def quantised(traced: Traced, float_blocks: Sequence[int] = ()) -> tuple[ir.Model, ir.Model | None]:
    """Return the graphs in int8 but for some blocks, of which a decoder's count after the encoder's."""
    model = to_int8(traced.model, float_blocks)
    if traced.decoder is None:
        return model, None
    n_encoder = traced.manifest.n_blocks
    return model, to_int8(traced.decoder, [i - n_encoder for i in float_blocks if i >= n_encoder])


def _n_blocks(traced: Traced) -> int:
    """Return the number of blocks that can be quantised, a decoder's included."""
    facts = traced.manifest.decoder
    return traced.manifest.n_blocks + (facts.n_blocks if facts else 0)


def quantise(traced: Traced, batches: Iterable[FeatureBatch], note: Note) -> Int8:
    """Quantise all blocks; while WER is worse (see `Int8.holds`), return the block that hurts most to float.

    `batches` is kept in memory, and recognised once a depth and trial. With every block in float only the head is
    quantised; `Int8.holds` is then false if even that hurts.
    """
    kept = list(batches)
    with temporary_folder() as place:
        float_model = _load(traced, (traced.model, traced.decoder), place / "float")
        float_errors = _errors(float_model, kept)
        order: list[int] | None = None
        float_blocks: tuple[int, ...] = ()
        while True:
            found = _trial(traced, kept, float_blocks, float_errors, place)
            note(_describe(found))
            if found.holds or len(float_blocks) == _n_blocks(traced):
                return found
            if order is None:
                order = _most_hurt_first(traced, float_model, kept[:_PROBE_BATCHES], place)
            float_blocks = tuple(sorted(order[: len(float_blocks) + 1]))


def _trial(
    traced: Traced,
    batches: list[FeatureBatch],
    float_blocks: tuple[int, ...],
    float_errors: list[list[int]],
    place: Path,
) -> Int8:
    graphs = quantised(traced, float_blocks)
    recognizer = _load(traced, graphs, place / "int8")
    errors = _errors(recognizer, batches)
    words = [len(normalise(text).split()) for batch in batches for text in batch.texts]
    rows = []
    for depth, (before, after) in enumerate(zip(float_errors, errors, strict=True), 1):
        change = paired_change(before, words, after)
        row: dict[str, Any] = {
            "depth": depth,
            "subset": recognizer.subset(depth).key,
            "float_errors": sum(before),
            "int8_errors": sum(after),
            "words": sum(words),
        }
        rows.append(row | {name: _plain(getattr(change, part)) for name, part in _CHANGE.items()})
    model, decoder = graphs
    return Int8(model, float_blocks, tuple(rows), decoder)


def _plain(number: float) -> float:
    """Return a number as JSON allows it: 1e9 for infinity, which is the change from no error to some."""
    return round(number, 4) if math.isfinite(number) else 1e9


def _most_hurt_first(
    traced: Traced, float_model: OnnxRecognizer, batches: Sequence[FeatureBatch], place: Path
) -> list[int]:
    """Return the blocks by the KL divergence of the posteriors when each alone is quantised, the largest first."""
    n_blocks = _n_blocks(traced)
    hurt = []
    for block in range(n_blocks):
        others = [i for i in range(n_blocks) if i != block]
        alone = _load(traced, quantised(traced, others), place / "one")
        hurt.append(sum(_divergence(float_model, alone, batch) for batch in batches))
    return sorted(range(n_blocks), key=lambda block: -hurt[block])


def _divergence(before: OnnxRecognizer, after: OnnxRecognizer, batch: FeatureBatch) -> float:
    """Return the KL divergence of the posteriors of frames, or of the tokens that the first of both writes."""
    full = BlockSubset.full(before.n_blocks)
    if isinstance(before.decoding, TokenDecoding):
        labels_BU, counts_B = before.decoding.labels(batch, full)
        p_BTV, q_BTV = (
            model.session.posteriors(batch.inputs, batch.lengths_B, full, labels_BU) for model in (before, after)
        )
    else:
        p_BTV, counts_B = before.session.posteriors(batch.inputs, batch.lengths_B, full)
        q_BTV, _ = after.session.posteriors(batch.inputs, batch.lengths_B, full)
    pairs = zip(p_BTV, q_BTV, counts_B, strict=True)
    return float(sum((np.exp(p[:n]) * (p[:n] - q[:n])).sum() for p, q, n in pairs))


def _errors(recognizer: OnnxRecognizer, batches: list[FeatureBatch]) -> list[list[int]]:
    """Return the word errors of each utterance at each depth of the ladder."""
    depths = depths_of(recognizer.ladder, recognizer.n_blocks)
    found = [evaluate(recognizer, batches, recognizer.subset(depth)).word_counts for depth in depths]
    return [[count.errors for count in counts] for counts in found]


def _load(traced: Traced, graphs: tuple[ir.Model, ir.Model | None], folder: Path) -> OnnxRecognizer:
    model, decoder = (graph and graph.clone() for graph in graphs)
    assert model is not None
    streaming = traced.manifest.streaming
    trial = replace(traced.manifest, precision="trial", streaming=streaming and streaming.in_chunks())
    write_folder(folder, traced, model, trial, compared=False, decoder=decoder)
    return OnnxRecognizer(folder, threads=1)


def _describe(found: Int8) -> str:
    before, after = (sum(row[name] for row in found.rows) for name in ("float_errors", "int8_errors"))
    worst = max(found.rows, key=lambda row: row["change"])
    where = f"worst at depth {worst['depth']} with {worst['int8_errors']}, in float {worst['float_errors']}"
    blocks = f"{len(found.float_blocks)} blocks in float"
    return f"int8, {blocks}: {after} errors over all depths, in float {before}; {where}"
