"""The ladder is never worse than prefixes and cheap to find; a sweep counts right and continues after a kill."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from layerdial.audio.features import LogMel
from layerdial.cost import Cost
from layerdial.errors import UserError
from layerdial.evaluation.latency import Timing
from layerdial.evaluation.search import most_evaluations, search_ladder
from layerdial.evaluation.sweep import sweep
from layerdial.evaluation.tables import compare
from layerdial.ladder import Ladder, select_all
from layerdial.recognizer import FeatureBatch, collate_features
from layerdial.subset import BlockSubset
from layerdial.utils.rows import read_rows

QUICK = Timing(seconds=0.2, warmup=0, repeats=1)
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class Corpus(list[FeatureBatch]):
    """Batches of which nothing had to be left out."""

    rejected = ()


def make_batches(utterances: int = 6) -> Corpus:
    """Batches of two utterances of ten words."""
    features = np.zeros((20, 80), dtype=np.float32)
    text = " ".join(WORDS)
    return Corpus(
        collate_features([f"u{n}", f"u{n + 1}"], [features, features], [text, text], 0.4)
        for n in range(0, utterances, 2)
    )


class Scripted:
    """A recogniser whose loss and wrong words (0 to 10 an utterance) are given by functions of the subset."""

    name, device, threads, has_loss, ladder = "scripted", "cpu", 1, True, None
    features = LogMel(4)

    def __init__(
        self, n_blocks: int, loss: Callable[[BlockSubset], float], wrong: Callable[[BlockSubset], int]
    ) -> None:
        self.n_blocks, self.loss, self.wrong = n_blocks, loss, wrong
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

    def loss_and_text(self, batch: FeatureBatch, subset: BlockSubset) -> tuple[float, list[str]]:
        return self.loss(subset) * len(batch.ids), self.recognize(batch, subset)


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


# -------------------------------------------------------------------------------------------------------- search


@pytest.mark.parametrize("n_blocks", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("metric", ["loss", "wer"])
@pytest.mark.parametrize("seed", range(12))
def test_ladder_is_never_worse_than_prefixes_and_stays_within_its_evaluations(
    n_blocks: int, metric: Any, seed: int
) -> None:
    recognizer = rugged(n_blocks, seed)
    ladder = search_ladder(recognizer, make_batches(2), metric)
    score = recognizer.loss if metric == "loss" else recognizer.wrong
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
        assert ladder.subset(depth) == min(every, key=recognizer.loss)


def test_search_takes_a_prefix_that_removal_cannot_reach() -> None:
    def loss(subset: BlockSubset) -> float:
        # Block 0 is best removed first, but then nothing below is as good as the first two blocks together.
        return {"0111": 0.0, "1100": 0.1, "1000": 0.2}.get(subset.key, 1.0)

    ladder = search_ladder(Scripted(4, loss, lambda subset: 0), make_batches(2))
    assert [rung.subset for rung in ladder.rungs] == ["1000", "1100", "0111", "1111"]


def test_rungs_carry_their_numbers() -> None:
    ladder = search_ladder(additive([1, 2, 3]), make_batches(6), cuts="dev")
    assert (ladder.metric, ladder.cuts, ladder.utterances) == ("loss", "dev", 6)
    first = ladder.rungs[0]
    assert (first.depth, first.subset, first.loss) == (1, "001", 7.0)
    assert (first.errors, first.words, first.wer) == (9 * 6, 60, 0.9)


def test_wer_ties_are_broken_by_loss() -> None:
    recognizer = Scripted(4, additive([1, 4, 2, 3]).loss, wrong=lambda subset: 5)
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


# -------------------------------------------------------------------------------------------------------- ladder


def test_ladder_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    ladder = search_ladder(rugged(4, 3), make_batches(2), cuts="dev")
    ladder.save(tmp_path / "ladder.json")
    assert Ladder.load(tmp_path / "ladder.json", n_blocks=4) == ladder
    stored = json.loads((tmp_path / "ladder.json").read_text())
    assert stored["format"] == 1
    assert set(stored["rungs"][0]) == {"depth", "subset", "loss", "wer", "errors", "words"}
    assert ladder.subset(4) == BlockSubset.full(4)
    with pytest.raises(UserError, match="depth 5 does not exist in an encoder of 4 blocks"):
        ladder.subset(5)


def test_ladder_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ladder.json"
    search_ladder(rugged(4, 3), make_batches(2)).save(path)
    with pytest.raises(UserError, match=r"ladder\.json is for 4 blocks, this model has 6"):
        Ladder.load(path, n_blocks=6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d | {"format": 2}, "has format 2; this layerdial reads format 1"),
        (lambda d: [d], "it holds no JSON object"),
        (lambda d: {k: v for k, v in d.items() if k != "rungs"}, "is damaged"),
        (lambda d: d | {"rungs": d["rungs"][1:]}, r"rungs 1 to 3, found \[2, 3\]"),
        (lambda d: d | {"rungs": "abc"}, "is damaged"),
        (lambda d: d | {"rungs": [d["rungs"][0] | {"subset": "110"}, *d["rungs"][1:]]}, "cannot have the subset 110"),
        (lambda d: d | {"rungs": [d["rungs"][0] | {"subset": "x"}, *d["rungs"][1:]]}, "made of 0 and 1"),
        (lambda d: d | {"rungs": [d["rungs"][0] | {"errors": None}, *d["rungs"][1:]]}, "is damaged"),
    ],
)
def test_a_damaged_ladder_is_one_clear_line(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    path = tmp_path / "ladder.json"
    search_ladder(rugged(3, 0), make_batches(2)).save(path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=message) as caught:
        Ladder.load(path)
    assert "\n" not in str(caught.value)
    path.write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        Ladder.load(path)


# --------------------------------------------------------------------------------------------------------- sweep


def test_selection_rules() -> None:
    ladder = search_ladder(additive([1, 4, 2, 3]), make_batches(2))
    keys = {rule: [s.key for s in select_all(rule, [1, 3], 4, ladder)] for rule in ("ladder", "prefix", "even")}
    assert keys == {"ladder": ["0100", "0111"], "prefix": ["1000", "1110"], "even": ["1000", "1011"]}
    assert [s.depth for s in select_all("random", None, 4, seed=3)] == [1, 2, 3, 4]
    assert select_all("random", None, 8, seed=3) == select_all("random", None, 8, seed=3)
    assert select_all("random", None, 8, seed=3) != select_all("random", None, 8, seed=4)


def test_selection_refuses_what_is_not_there() -> None:
    with pytest.raises(UserError, match=r"no ladder\.json; run layerdial search first, or choose --select even"):
        select_all("ladder", [1], 4)
    with pytest.raises(UserError, match="choose one of ladder, prefix, even, random"):
        select_all("best", [1], 4)
    with pytest.raises(UserError, match="depth 0 does not exist"):
        select_all("even", [0], 4)


def test_a_row_says_what_was_counted() -> None:
    (row,) = sweep(
        additive([1] * 4), make_batches(6), [BlockSubset.prefix(4, 3)], extra={"method": "dld"}, timing=QUICK
    )
    expected = {"method": "dld", "subset": "1110", "depth": 3, "utterances": 6, "words": 60, "errors": 42, "wer": 0.7}
    expected |= {"wer_low": 0.7, "wer_high": 0.7, "substitutions": 42, "deletions": 0, "insertions": 0}
    assert {name: row[name] for name in expected} == expected
    assert row["cer"] == row["char_errors"] / row["chars"]
    assert row["audio_seconds"] == pytest.approx(1.2)
    assert row["latency_ms"] > 0 and row["rtf"] > 0
    assert (row["parameters"], row["macs_per_second"]) == (300, 3e6)


def test_rows_are_there_as_soon_as_they_are_made_and_made_once(tmp_path: Path) -> None:
    subsets = select_all("even", None, 4)
    extra = {"method": "ld", "select": "even", "model": "runs/ld/model", "fingerprint": "f", "cuts": "test"}
    rows = sweep(additive([1] * 4), make_batches(), subsets, tmp_path, extra, timing=QUICK)
    first = [next(rows), next(rows)]
    rows.close()  # killed after two rows
    assert read_rows(tmp_path / "sweep.jsonl") == first
    recognizer = additive([1] * 4)
    again = list(sweep(recognizer, make_batches(), subsets, tmp_path, extra, timing=QUICK))
    assert again[:2] == first
    assert read_rows(tmp_path / "sweep.jsonl") == again
    assert [row["depth"] for row in again] == [1, 2, 3, 4]
    assert not {first[0]["subset"], first[1]["subset"]} & set(recognizer.calls)
    assert (tmp_path / "sweep.png").stat().st_size > 1000


@pytest.mark.medium
def test_another_model_or_other_cuts_are_measured_again(tmp_path: Path) -> None:
    subsets = [BlockSubset.full(2)]
    extra = {"method": "ld", "model": "m", "fingerprint": "a", "cuts": "test"}
    for change in ({}, {"method": "dld"}, {"fingerprint": "b"}, {"cuts": "dev"}, {"cuts_contents": "made anew"}):
        recognizer = additive([1] * 2)
        list(sweep(recognizer, make_batches(), subsets, tmp_path, extra | change, timing=QUICK))
        assert recognizer.calls
    assert len(read_rows(tmp_path / "sweep.jsonl")) == 5
    assert len(list((tmp_path / "utterances").iterdir())) == 5


@pytest.mark.medium
def test_other_threads_are_measured_again(tmp_path: Path) -> None:
    recognizer = tiny_recognizer()
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 1):
            torch.set_num_threads(number)
            (row,) = sweep(recognizer, real_batches(), [BlockSubset.full(3)], tmp_path, timing=QUICK)
            assert row["threads"] == number
    finally:
        torch.set_num_threads(threads)
    assert [row["threads"] for row in read_rows(tmp_path / "sweep.jsonl")] == [1, 2]


def test_the_same_subset_under_another_rule_is_labelled_but_not_measured_again(tmp_path: Path) -> None:
    for rule in ("even", "prefix", "even"):
        recognizer = additive([1] * 2)
        rows = sweep(recognizer, make_batches(), [BlockSubset.full(2)], tmp_path, {"select": rule}, timing=QUICK)
        assert [row["select"] for row in rows] == [rule]
    assert not recognizer.calls
    assert [row["select"] for row in read_rows(tmp_path / "sweep.jsonl")] == ["even", "prefix"]


def test_utterances_are_kept_for_paired_comparison(tmp_path: Path) -> None:
    for method, wrong in (("ld", 4), ("a/dld", 3)):
        recognizer = Scripted(2, lambda s: 0.0, lambda s, wrong=wrong: wrong)  # type: ignore[misc]
        list(sweep(recognizer, make_batches(), [BlockSubset.full(2)], tmp_path, {"method": method}, timing=QUICK))
    rows = read_rows(tmp_path / "sweep.jsonl")
    utterances = read_rows(tmp_path / rows[0]["utterances_file"])
    assert [u["id"] for u in utterances] == [f"u{n}" for n in range(6)]
    assert {(u["errors"], u["words"]) for u in utterances} == {(4, 10)}
    assert utterances[0]["hypothesis"] == "no no no no five six seven eight nine ten"
    ((_, _, change),) = compare(rows, "ld", tmp_path)
    assert change.relative == change.high == -0.25


def test_no_utterance_is_said() -> None:
    with pytest.raises(UserError, match="the cuts hold no utterance"):
        list(sweep(additive([1] * 2), [], [BlockSubset.full(2)], timing=QUICK))


# ------------------------------------------------------------------------------------------------- a real network


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


def test_a_real_network_is_searched_and_swept(tmp_path: Path) -> None:
    recognizer = tiny_recognizer()
    ladder = search_ladder(recognizer, real_batches(), journal=tmp_path / "search.jsonl")
    assert all(rung.loss is not None and rung.loss > 0 for rung in ladder.rungs)
    subsets = select_all("ladder", None, 3, ladder)
    rows = list(sweep(recognizer, real_batches(), subsets, tmp_path, {"method": "dld"}, timing=QUICK))
    assert read_rows(tmp_path / "sweep.jsonl") == rows
    macs = [row["macs_per_second"] for row in rows]
    assert macs[1] - macs[0] == pytest.approx(macs[2] - macs[1])
    assert macs[0] < macs[1]
    assert rows[2]["parameters"] == sum(p.numel() for p in recognizer.network.parameters())
    assert (rows[0]["device"], rows[0]["words"]) == ("cpu", 4)
