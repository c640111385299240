"""The ladder is never worse than prefixes, and cheap to find; a search goes on from its journal."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from layerdial.errors import UserError
from layerdial.evaluation.search import most_evaluations, search_ladder
from layerdial.subset import BlockSubset
from tiny_evaluation import Scripted, additive, make_batches, rugged


@pytest.mark.parametrize("n_blocks", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("metric", ["loss", "wer"])
@pytest.mark.parametrize("seed", range(12))
def test_ladder_is_never_worse_than_prefixes_and_stays_within_its_evaluations(
    n_blocks: int, metric: Any, seed: int
) -> None:
    recognizer = rugged(n_blocks, seed)
    ladder = search_ladder(recognizer, make_batches(2), metric)
    score = recognizer.loss_of if metric == "loss" else recognizer.wrong
    for depth in range(1, n_blocks + 1):
        assert score(ladder.subset(depth)) <= score(BlockSubset.prefix(n_blocks, depth))
    assert len(recognizer.calls) <= most_evaluations(n_blocks)
    assert set(recognizer.calls.values()) == {1}, "no subset is evaluated twice"


def test_search_finds_the_best_subset_of_every_depth_where_blocks_add_up() -> None:
    weights = [0.1, 0.9, 0.05, 0.7, 0.3, 0.6]
    recognizer = additive(weights)
    ladder = search_ladder(recognizer, make_batches(2))
    for depth in range(1, 7):
        every = [BlockSubset(6, kept) for kept in combinations(range(6), depth)]
        assert ladder.subset(depth) == min(every, key=recognizer.loss_of)


def test_search_takes_a_prefix_that_removal_cannot_reach() -> None:
    def loss(subset: BlockSubset) -> float:
        # Block 0 is best removed first, but then nothing below is as good as the first two blocks together.
        return {"0111": 0.0, "1100": 0.1, "1000": 0.2}.get(subset.key, 1.0)

    ladder = search_ladder(Scripted(4, loss, lambda subset: 0), make_batches(2))
    assert [rung.subset for rung in ladder.rungs] == ["1000", "1100", "0111", "1111"]


def test_where_texts_cost_more_than_the_loss_they_are_written_for_the_rungs_alone() -> None:
    by_pass, apart = additive([0.1, 0.9, 0.05, 0.7]), additive([0.1, 0.9, 0.05, 0.7])
    apart.writes_apart = True
    ladder = search_ladder(apart, make_batches(2))
    assert ladder == search_ladder(by_pass, make_batches(2))
    assert dict(apart.calls) == {rung.subset: 1 for rung in ladder.rungs}
    assert len(by_pass.calls) > len(apart.calls)


def test_rungs_carry_their_numbers() -> None:
    ladder = search_ladder(additive([1, 2, 3]), make_batches(6), cuts="dev")
    assert (ladder.metric, ladder.cuts, ladder.utterances) == ("loss", "dev", 6)
    first = ladder.rungs[0]
    assert (first.depth, first.subset, first.loss) == (1, "001", 7.0)
    assert (first.errors, first.words, first.wer) == (9 * 6, 60, 0.9)


def test_wer_ties_are_broken_by_loss() -> None:
    recognizer = Scripted(4, additive([1, 4, 2, 3]).loss_of, wrong=lambda subset: 5)
    ladder = search_ladder(recognizer, make_batches(2), "wer")
    assert [rung.subset for rung in ladder.rungs] == ["0100", "0101", "0111", "1111"]


def test_a_subset_without_a_finite_loss_is_never_preferred() -> None:
    bad = Scripted(3, loss=lambda s: float("nan") if 0 in s and s.depth < 3 else 1.0, wrong=lambda s: 0)
    assert search_ladder(bad, make_batches(2)).subset(2).key == "011"
    hopeless = search_ladder(Scripted(2, lambda s: float("inf"), lambda s: 10), make_batches(2))
    assert hopeless.rungs[0].loss is None


def test_search_continues_from_its_journal(tmp_path: Path) -> None:
    journal = tmp_path / "search.jsonl"
    whole = search_ladder(rugged(5, 1), make_batches(), journal=journal, fingerprint="a")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:6]) + lines[6][:9])  # killed while it wrote the seventh
    again = rugged(5, 1)
    assert search_ladder(again, make_batches(), journal=journal, fingerprint="a") == whole
    assert len(again.calls) == len(lines) - 6
    other = rugged(5, 1)
    search_ladder(other, make_batches(), journal=journal, fingerprint="another model")
    assert len(other.calls) == len(lines)


def test_search_reports_its_progress() -> None:
    seen: list[int] = []
    search_ladder(rugged(4, 0), make_batches(2), progress=lambda done, note: seen.append(done))
    assert seen == sorted(seen)
    assert seen[-1] == most_evaluations(4) == 10


def test_search_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'loss' or 'wer', found 'cer'"):
        search_ladder(rugged(2, 0), make_batches(), "cer")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="found 0 cuts and no word"):
        search_ladder(rugged(2, 0), [])
    (tmp_path / "j").write_text('{"fingerprint": "", "loss": 1}\n')
    with pytest.raises(UserError, match="no journal of a ladder search"):
        search_ladder(rugged(2, 0), make_batches(), journal=tmp_path / "j")
