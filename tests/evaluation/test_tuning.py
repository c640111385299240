"""Weights of a language model: chosen on a grid, stored for a model and a language model, used where none are given."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from conftest import Corpus
from layerdial import load_model
from layerdial.errors import UserError
from layerdial.evaluation.metrics import ErrorCounts, total
from layerdial.evaluation.tune import tune_model
from layerdial.evaluation.tuning import Choice, Counts, choose
from layerdial.request import Request
from layerdial.text.ngram import write_ngram
from layerdial.text.tuned import FILE, TunedDecoder, Weights, read_tuned, save_tuned
from tiny import sentences

USUAL = Choice(8, 0.5, 1.0)


@pytest.mark.parametrize(("weight", "bonus"), [(0.5, 1.0), (0.0, -1.5), (2.5, 3.0), (0.625, 0.25)])
def test_the_choice_is_the_minimum_also_where_the_coarse_grid_does_not_reach(weight: float, bonus: float) -> None:
    def evaluate(choices: Sequence[Choice]) -> Counts:
        errors = {one: round(80 * abs(one.lm_weight - weight) + 40 * abs(one.word_bonus - bonus)) for one in choices}
        return {one: [ErrorCounts(hits=100, insertions=count)] for one, count in errors.items()}

    choice, known = choose(evaluate, (8,))
    assert (choice.lm_weight, choice.word_bonus) == (weight, bonus)
    assert USUAL in known and len(known) < 100


def test_of_choices_with_as_few_errors_the_usual_weights_and_the_fewest_beams_are_taken() -> None:
    choice, _ = choose(lambda choices: {one: [ErrorCounts(hits=5)] for one in choices}, (16, 4))
    assert choice == Choice(4, 0.5, 1.0)


@pytest.fixture
def model(learnt: Path, tmp_path: Path) -> Path:
    return shutil.copytree(learnt, tmp_path / "model")


@pytest.fixture
def lm(tmp_path: Path) -> Path:
    pytest.importorskip("kenlm")
    write_ngram(sentences(60), tmp_path / "lm.arpa", 2)
    return tmp_path / "lm.arpa"


@pytest.mark.medium
def test_tuned_weights_are_used_by_the_model_with_that_language_model_and_no_other(
    model: Path, lm: Path, corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    file, rows = tune_model(model, corpus.dev, lm, {"low": 1.0}, [1, 3], jobs=1)
    assert [row.depth for row in rows] == [1, 3] and file == model / FILE
    assert all(total(row.tuned).errors <= total(row.usual).errors for row in rows)
    chosen = rows[1].choice
    recognizer = load_model(model)
    asked = recognizer.settled(Request(3, lm=str(lm)))
    assert (asked.beams, asked.lm_weight, asked.word_bonus) == chosen
    given = Request(3, lm=str(lm), lm_weight=2.0)
    assert recognizer.settled(given) == given
    assert recognizer.settled(Request(3, lm=str(lm), beams=2)).beams == 2
    other = lm.with_name("other.arpa")
    write_ngram(sentences(30), other, 2)
    caplog.set_level(logging.INFO)
    assert recognizer.settled(Request(lm=str(other))) == Request(lm=str(other))
    assert "was tuned with lm.arpa, not with" in caplog.text


@pytest.mark.medium
def test_processes_choose_as_one_does(model: Path, lm: Path, corpus: Corpus) -> None:
    _, alone = tune_model(model, corpus.dev, lm, None, [2], jobs=1)
    _, together = tune_model(model, corpus.dev, lm, None, [2], jobs=2)
    assert alone == together


def tuned_at(*depths: int) -> TunedDecoder:
    return TunedDecoder("lm.arpa", "dev", tuple(Weights(depth, 0.25 * depth, 0.0, 8, 1, 100) for depth in depths))


def test_a_depth_between_takes_the_weights_of_the_nearest_and_the_deeper_of_two() -> None:
    tuned = tuned_at(2, 4, 12)
    assert [tuned.at(depth).depth for depth in (1, 2, 3, 5, 7, 9, 12)] == [2, 2, 4, 4, 4, 12, 12]


def test_what_was_tuned_stays_for_each_language_model_and_goes_with_the_weights(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
        save_tuned(tmp_path, "weights", tmp_path / name, tuned_at(1))
    assert len(read_tuned(tmp_path, "weights")) == 2
    assert read_tuned(tmp_path, "other weights") == {}


def test_a_damaged_file_of_weights_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "lm").write_text("")
    file = save_tuned(tmp_path, "weights", tmp_path / "lm", tuned_at(1))
    file.write_text(file.read_text().replace("0.25", "0.75"))
    with pytest.raises(UserError, match="tune-decoder, or remove") as problem:
        read_tuned(tmp_path, "weights")
    assert "\n" not in str(problem.value)


@pytest.mark.medium
def test_a_model_with_a_decoder_has_no_weights_to_be_tuned(lm: Path, corpus: Corpus) -> None:
    english = Path(__file__).parents[2] / "models" / "english"
    with pytest.raises(UserError, match="give a CTC model"):
        tune_model(english, corpus.dev, lm)
