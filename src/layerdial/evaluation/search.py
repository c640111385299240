"""Search of the ladder: for each depth a subset with few errors on held-out speech, by greedy removal of blocks.

From all N blocks down, each level tries the removal of every block left and keeps the best. Two things are added to
plain greedy removal. First, the prefix of each depth is tried too, so that on the cuts of the search the ladder is
never worse than prefix selection. Second, the block whose removal hurt most when it was last tried is kept without
another trial, which makes up for the first. At most N(N+1)/2 subsets are evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from layerdial.errors import UserError
from layerdial.evaluation.metrics import score, total
from layerdial.ladder import Ladder, Rung
from layerdial.recognizer import FeatureBatch, Recognizer, by_utterance, whole_rows
from layerdial.subset import BlockSubset
from layerdial.text.normalisers import Normalizer, normalizer_of
from layerdial.utils.rows import append_row, read_rows

Metric = Literal["loss", "wer"]
Rank = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Measured:
    """One evaluated subset: mean loss an utterance (None if not finite), word errors, reference words.

    Errors and words are None where the loss alone was measured.
    """

    subset: str
    loss: float | None
    errors: int | None
    words: int | None
    utterances: int

    def rank(self, metric: Metric) -> Rank:
        """Return the sort key, less is better: the metric first, the other number where that ties."""
        loss, errors = math.inf if self.loss is None else self.loss, self.errors or 0
        return (loss, errors) if metric == "loss" else (errors, loss)

    def rung(self) -> Rung:
        assert self.errors is not None and self.words is not None
        depth = BlockSubset.from_key(self.subset).depth
        return Rung(depth, self.subset, self.loss, self.errors / self.words, self.errors, self.words)


def search_ladder(
    recognizer: Recognizer,
    batches: Iterable[FeatureBatch],
    metric: Metric = "loss",
    *,
    cuts: str = "",
    progress: Callable[[int, str], None] | None = None,
    journal: Path | None = None,
    fingerprint: str = "",
    normalizer: Normalizer = "basic",
) -> Ladder:
    """Return the ladder with the least dev `metric` that greedy removal finds; see the top of this file.

    `batches` is iterated once an evaluation; `cuts` is its name, for the record. `progress(done, note)` is called with
    the evaluations done out of `most_evaluations(n_blocks)`. With `journal`, finished evaluations are kept in that
    file. A restart takes those with the same `fingerprint` (of the model and the cuts) from it. Words are counted in
    the normal form of `normalizer`.
    """
    if metric not in ("loss", "wer"):
        raise UserError(f"the ladder is searched by metric 'loss' or 'wer', found {metric!r}")
    loss_alone = metric == "loss" and recognizer.writes_apart
    evaluated = _Evaluated(recognizer, batches, journal, fingerprint, progress, normalizer, loss_alone)
    current = BlockSubset.full(recognizer.n_blocks)
    chosen = [evaluated(current)]
    harm: dict[int, Rank] = {}
    while current.depth > 1:
        current = _best_step(current, harm, lambda subset: evaluated(subset).rank(metric))
        chosen.append(evaluated(current))
    rungs = tuple(evaluated.with_errors(measured).rung() for measured in reversed(chosen))
    if progress:
        progress(most_evaluations(recognizer.n_blocks), f"{len(evaluated.results)} subsets evaluated")
    return Ladder(recognizer.n_blocks, metric, cuts, chosen[0].utterances, rungs)


def most_evaluations(n_blocks: int) -> int:
    """Return the most subsets that a search evaluates: 1 + N + (N - 1) + ... + 2."""
    return n_blocks * (n_blocks + 1) // 2


def _best_step(current: BlockSubset, harm: dict[int, Rank], rank: Callable[[BlockSubset], Rank]) -> BlockSubset:
    """Return the best subset with one block fewer. `harm` (block -> cost of its last removal) is updated."""
    removals = {current.without(block): block for block in reversed(current.kept)}
    candidates = list(removals)
    prefix = BlockSubset.prefix(current.n_blocks, current.depth - 1)
    if prefix not in removals:
        # One candidate more and one fewer. All blocks have been tried by now: the subset that this descends from by
        # removals alone is full or a prefix, and for these the shorter prefix is among the removals.
        spared = max(current.kept, key=harm.__getitem__)
        candidates = [prefix, *(subset for subset, block in removals.items() if block != spared)]
    before, after = rank(current), {subset: rank(subset) for subset in candidates}
    harm.update({removals[s]: _increase(before, after[s]) for s in candidates if s in removals})
    return min(candidates, key=after.__getitem__)


def _increase(before: Rank, after: Rank) -> Rank:
    first, second = (high - low if math.isfinite(low) else 0.0 for low, high in zip(before, after, strict=True))
    return first, second


class _Evaluated:
    """The evaluated subsets: each is measured once, when first needed; with a journal, results survive a restart."""

    def __init__(
        self,
        recognizer: Recognizer,
        batches: Iterable[FeatureBatch],
        journal: Path | None,
        fingerprint: str,
        progress: Callable[[int, str], None] | None,
        normalizer: Normalizer,
        loss_alone: bool,
    ) -> None:
        self.recognizer, self.batches, self.normalizer, self.loss_alone = recognizer, batches, normalizer, loss_alone
        self.journal, self.fingerprint, self.progress = journal, fingerprint, progress
        self.results: dict[str, Measured] = {}
        self.finished_before = self._read_journal() if journal else {}

    def __call__(self, subset: BlockSubset) -> Measured:
        if subset.key not in self.results:
            known = self.finished_before.get(subset.key)
            self.results[subset.key] = known or self._measure(subset, self.loss_alone)
            if self.progress:
                self.progress(len(self.results), _note(self.results[subset.key]))
        return self.results[subset.key]

    def with_errors(self, measured: Measured) -> Measured:
        """Return the same subset with its word errors, which are counted now where there are none yet."""
        return measured if measured.errors is not None else self._measure(BlockSubset.from_key(measured.subset), False)

    def _measure(self, subset: BlockSubset, loss_alone: bool) -> Measured:
        measured = measure(self.recognizer, self.batches, subset, self.normalizer, loss_alone=loss_alone)
        if self.journal:
            append_row(self.journal, {"fingerprint": self.fingerprint, **asdict(measured)})
        return measured

    def _read_journal(self) -> dict[str, Measured]:
        assert self.journal
        rows = [row for row in read_rows(self.journal) if row.get("fingerprint") == self.fingerprint]
        try:
            finished = [Measured(**{k: v for k, v in row.items() if k != "fingerprint"}) for row in rows]
        except TypeError as error:
            raise UserError(f"{self.journal} is no journal of a ladder search; remove it or name another") from error
        return {measured.subset: measured for measured in finished if len(measured.subset) == self.recognizer.n_blocks}


def _note(measured: Measured) -> str:
    depth = BlockSubset.from_key(measured.subset).depth
    if measured.errors is None:
        return f"depth {depth}: loss {math.inf if measured.loss is None else measured.loss:.2f}"
    return f"depth {depth}: WER {100 * measured.rung().wer:.2f} %"


def trained_ladder(
    recognizer: Recognizer, batches: Iterable[FeatureBatch], cuts: str, subsets: Sequence[BlockSubset]
) -> Ladder:
    """Return the ladder of the one subset of each depth that was trained, shallowest first, measured on dev `cuts`."""
    measured = [measure(recognizer, batches, subset) for subset in subsets]
    rungs = tuple(m.rung() for m in measured)
    return Ladder(recognizer.n_blocks, "trained", cuts, measured[0].utterances, rungs, subsets[0].depth)


def measure(
    recognizer: Recognizer,
    batches: Iterable[FeatureBatch],
    subset: BlockSubset,
    normalizer: Normalizer = "basic",
    *,
    loss_alone: bool = False,
) -> Measured:
    """Return loss and word errors of one subset on all batches; with `loss_alone` no texts are written.

    The loss is of utterances that the network takes at once. Raises `UserError` if there is no utterance or no word.
    """
    normal = normalizer_of(normalizer)
    loss, utterances, with_loss, pairs = 0.0, 0, 0, list[tuple[str, str]]()
    for batch in batches:
        batch_loss, found = _measure_batch(recognizer, batch, subset, loss_alone)
        loss, with_loss = loss + batch_loss, with_loss + len(whole_rows(batch).ids)
        utterances += len(batch.ids) if found is None else len(found)
        pairs += [(normal(text), normal(written)) for _, text, written in found or ()]
    counts = None if loss_alone else total(score(pairs))
    if not utterances or (counts is not None and not counts.words):
        raise UserError(f"the ladder search needs cuts with words in them, found {utterances} cuts and no word")
    mean = loss / with_loss if with_loss else math.inf
    finite = mean if math.isfinite(mean) else None
    if counts is None:
        return Measured(subset.key, finite, None, None, utterances)
    return Measured(subset.key, finite, counts.errors, counts.words, utterances)


def _measure_batch(
    recognizer: Recognizer, batch: FeatureBatch, subset: BlockSubset, loss_alone: bool
) -> tuple[float, list[tuple[str, str, str]] | None]:
    """Return the loss summed over the whole utterances, and ids, transcripts and texts: none with `loss_alone`."""
    whole = whole_rows(batch)
    if loss_alone:
        return (recognizer.loss(whole, subset) if whole.ids else 0.0), None
    if whole is batch:
        loss, texts = recognizer.loss_and_text(batch, subset)
    else:
        loss = recognizer.loss(whole, subset) if whole.ids else 0.0
        texts = recognizer.recognize(batch, subset)
    return loss, list(by_utterance(batch, texts))
