"""Chains of rounds: when they end, and which round is their result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from layerdial.config.recipe import Recipe
from layerdial.errors import UserError
from layerdial.suites import training_record as trained
from layerdial.suites.suite import Suite, load_suite
from layerdial.suites.training_record import Point, Trained, train_entry
from layerdial.utils.files import read_json, write_json
from tiny import equal, weights
from tiny_suite import suite_data, tiny_suite, write_suite


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Suite, list[str]]]:
    """A run and chains over it whose trainings are not done, but come out on dev as told; and what was trained."""

    def make(*dev: float, min_gain: float = 0.01) -> tuple[Suite, list[str]]:
        methods = {"ld": {}, "long": {"continues": "ld", "rounds": 4, "min_gain": min_gain}}
        suite = tiny_suite(tmp_path, methods={**methods, "like": {"continues": "ld", "rounds_like": "long"}})
        outcomes, made = iter(dev), list[str]()

        def run(recipe: Recipe, metric: str) -> Trained:
            (recipe.out / "model").mkdir(parents=True)
            for file in ("name", "ladder.json", "search.jsonl"):
                (recipe.out / "model" / file).write_text(recipe.out.name)
            made.append(recipe.out.name)
            mean = next(outcomes)
            return Trained(20, 20, 2.0, 60.0, mean, 0, {str(recipe.out): 2.0}, (Point(20, 2.0, mean),))

        monkeypatch.setattr(trained, "_train", run)
        train_entry(suite, "ld", 0)
        return suite, made

    return make


def test_a_chain_ends_with_the_first_round_that_gains_too_little(chain) -> None:
    suite, made = chain(0.5, 0.4, 0.3999)
    result = train_entry(suite, "long", 0)
    assert made == ["seed-0", "round-1", "round-2"]
    assert (result.round, result.dev_mean, result.updates, result.updates_spent) == (2, 0.3999, 60, 60)
    assert [(point.updates, point.train_seconds) for point in result.curve] == [(20, 2.0), (40, 4.0), (60, 6.0)]


def test_the_best_round_of_a_chain_is_its_result_and_what_came_after_it_was_spent(chain) -> None:
    suite, _ = chain(0.5, 0.4, 0.45)
    result = train_entry(suite, "long", 0)
    assert (result.round, result.updates, result.updates_spent) == (1, 40, 60)
    assert result.train_seconds == result.total_train_seconds == 4.0
    assert (suite.model("long", 0) / "name").read_text() == "round-1"


def test_the_result_of_a_chain_keeps_the_ladder_it_was_trained_with_and_no_search(chain) -> None:
    suite, _ = chain(0.5, 0.4, 0.45)
    train_entry(suite, "long", 0)
    files = {path.name: path.read_text() for path in suite.model("long", 0).iterdir()}
    assert files == {"name": "round-1", "ladder.json": "round-1"}


def test_a_chain_that_gains_nothing_is_the_run_that_it_continues(chain) -> None:
    suite, _ = chain(0.5, 0.6)
    result = train_entry(suite, "long", 0)
    assert (result.round, result.updates, result.updates_spent, result.dev_mean) == (0, 20, 40, 0.5)
    assert (suite.model("long", 0) / "name").read_text() == "seed-0"


def test_a_chain_like_another_has_at_most_the_updates_of_that_ones_result(chain) -> None:
    suite, made = chain(0.5, 0.4, 0.45, 0.3)
    long, like = train_entry(suite, "long", 0), train_entry(suite, "like", 0)
    assert made == ["seed-0", "round-1", "round-2", "round-1"]
    assert like.updates == like.updates_spent == long.updates == 40


def test_a_chain_has_no_more_rounds_than_it_may(chain) -> None:
    suite, made = chain(0.5, 0.4, 0.3, 0.2, 0.1)
    assert train_entry(suite, "long", 0).round == 4 and len(made) == 5


@pytest.mark.medium
def test_a_real_chain_starts_each_round_from_the_one_before(corpus, tmp_path: Path) -> None:
    methods = {"ld": {}, "long": {"continues": "ld", "rounds": 2, "min_gain": 0.0}}
    data = suite_data(tmp_path, corpus.train, corpus.dev, methods=methods)
    data["recipe"]["optim"]["lr"] = 1e-9  # weights stay where they start
    data["recipe"]["train"] |= {"steps": 2, "eval_every": 1}
    suite = load_suite(write_suite(tmp_path, data))
    train_entry(suite, "ld", 1)
    train_entry(suite, "long", 1)
    start, rounds = weights(suite.folder("ld", 1)), sorted(suite.folder("long", 1).glob("round-*"))
    assert rounds and not any(run.joinpath("checkpoints").exists() for run in rounds)
    for run in rounds:
        assert all(torch.allclose(start[name], value, atol=1e-6) for name, value in weights(run).items())
    assert equal(start, weights(suite.folder("long", 1)))  # dev was no better


@pytest.mark.parametrize(
    ("key", "value"),
    [("curve", 3), ("curve", [{"updates": 1}]), ("seconds_of", []), ("dev_mean", "0.1"), ("more", 1), ("updates", {})],
    ids=str,
)
def test_a_damaged_record_is_one_line_with_the_remedy(tmp_path: Path, key: str, value: object) -> None:
    Trained(20, 20, 2.0, 60.0, 0.5, seconds_of={"a": 2.0}, curve=(Point(20, 2.0, 0.5),)).save(tmp_path)
    assert Trained.load(tmp_path) is not None
    file = tmp_path / "trained.json"
    write_json(file, {**read_json(file), key: value})
    with pytest.raises(UserError, match=r"trained\.json is damaged .*; remove it, and this entry is trained again"):
        Trained.load(tmp_path)
