"""A sweep counts right, writes each row as it is made, and continues after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from layerdial.errors import UserError
from layerdial.evaluation.evaluate import evaluate
from layerdial.evaluation.search import search_ladder
from layerdial.evaluation.sweep import measure_again, sweep
from layerdial.evaluation.tables import compare, latest_rows
from layerdial.ladder import select_all
from layerdial.recognizer import FeatureBatch
from layerdial.request import Request
from layerdial.subset import BlockSubset
from layerdial.utils.rows import read_rows
from tiny_evaluation import QUICK, Scripted, additive, make_batches, real_batches, tiny_recognizer


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


COLOUR = "mister seven saw the colour of the old sea there"


class Written(Scripted):
    """A recogniser whose only difference from the reference is how it writes."""

    def recognize(self, batch: FeatureBatch, subset: BlockSubset) -> list[str]:
        super().recognize(batch, subset)
        return [text.replace("seven", "7,").replace("mister", "Mr.") for text in batch.texts]

    def loss_and_text(self, batch: FeatureBatch, subset: BlockSubset) -> tuple[float, list[str]]:
        return 0.0, self.recognize(batch, subset)


def written() -> Written:
    return Written(2, lambda s: 0.0, lambda s: 0)


def test_another_normal_form_is_a_measurement_of_its_own(tmp_path: Path) -> None:
    full = [BlockSubset.full(2)]
    for normalizer, wer in (("basic", 0.2), ("whisper-english", 0.0), ("basic", 0.2)):
        recognizer = written()
        (row,) = sweep(recognizer, make_batches(text=COLOUR), full, tmp_path, timing=QUICK, normalizer=normalizer)  # type: ignore[arg-type]
        assert row["wer"] == wer and row.get("normalizer", "basic") == normalizer
    assert not recognizer.calls
    rows = read_rows(tmp_path / "sweep.jsonl")
    assert len(rows) == 2 and len(latest_rows(rows)) == 2
    assert read_rows(tmp_path / rows[0]["utterances_file"])[0]["text"].startswith("Mr. 7, saw")


def test_a_search_counts_words_in_the_form_asked_for() -> None:
    errors = [
        search_ladder(written(), make_batches(text=COLOUR), "wer", normalizer=name).rungs[-1].errors
        for name in ("basic", "whisper-english")
    ]
    assert errors == [12, 0]


def test_the_same_texts_are_scored_again_in_another_form() -> None:
    evaluation = evaluate(written(), make_batches(text=COLOUR), BlockSubset.full(2))
    assert (evaluation.wer.errors, evaluation.normalized_by("whisper-english").wer.errors) == (12, 0)
    again = measure_again(evaluation, "whisper-english")
    assert (again["errors_whisper_english"], again["wer_whisper_english"]) == (0, 0.0)
    assert again["words_whisper_english"] == 60
    with pytest.raises(UserError, match="normalizer is 'german'"):
        evaluate(written(), make_batches(), BlockSubset.full(2), "german")  # type: ignore[arg-type]


def test_no_utterance_is_said() -> None:
    with pytest.raises(UserError, match="the cuts hold no utterance"):
        list(sweep(additive([1] * 2), [], [BlockSubset.full(2)], timing=QUICK))


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


@pytest.mark.medium
def test_a_search_has_a_row_of_its_own_behind_the_greedy_one(tmp_path: Path) -> None:
    recognizer, subsets = tiny_recognizer(), select_all("even", None, 3)
    plain = list(sweep(recognizer, real_batches(), subsets, tmp_path, timing=QUICK))
    request = Request(beams=4, hotwords=["three", "four"])
    rows = list(sweep(recognizer, real_batches(), subsets, tmp_path, timing=QUICK, request=request))
    assert rows[::2] == plain
    assert [row["latency_ms"] for row in rows[1::2]] == [row["latency_ms"] for row in plain]
    assert {row["search"] for row in rows[1::2]} == {"2 hotwords, 4 beams"}
    assert [row["depth"] for row in rows] == [1, 1, 2, 2, 3, 3] and not any("rtf" in row for row in rows[1::2])
    again = list(sweep(recognizer, real_batches(), subsets, tmp_path, timing=QUICK, request=request))
    assert again == rows and len(read_rows(tmp_path / "sweep.jsonl")) == 6
    other = Request(beams=4, hotwords=["three", "five"])
    list(sweep(recognizer, real_batches(), subsets, tmp_path, timing=QUICK, request=other))
    assert len(read_rows(tmp_path / "sweep.jsonl")) == 9
    assert len(latest_rows(read_rows(tmp_path / "sweep.jsonl"))) == 6


def test_beams_of_one_are_a_greedy_search() -> None:
    recognizer, subsets = tiny_recognizer(), [BlockSubset.full(3)]
    assert len(list(sweep(recognizer, real_batches(), subsets, timing=QUICK, request=Request(beams=1)))) == 1
