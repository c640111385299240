"""What layerdial wrote at commit 3b18fec is read by this version, as it is; `old_artefacts/make.py` made it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from layerdial import load_model
from layerdial.config.old_keys import upgraded
from layerdial.config.recipe import Recipe, load_recipe
from layerdial.config.strict import parse
from layerdial.errors import UserError
from layerdial.evaluation.run import search_model
from layerdial.evaluation.tables import compare, latest_rows, sweep_table
from layerdial.ladder import Ladder
from layerdial.models.prune import prune_model
from layerdial.runtime import Recognizer
from layerdial.runtime.manifest import Manifest
from layerdial.runtime.profile import Device, Profile
from layerdial.suites.tables import Results, rates_table
from layerdial.suites.training_record import dev_mean, with_train_seconds
from layerdial.utils.rows import read_rows
from tiny_golden import noisy, write_noisy
from tiny_suite import tiny_suite

OLD = Path(__file__).parent / "old_artefacts"
TEXTS = json.loads((OLD / "texts.json").read_text(encoding="utf-8"))
DEPTHS = pytest.mark.parametrize("depth", [1, 2, 3])


@DEPTHS
def test_the_model_transcribes_as_it_did(depth: int) -> None:
    recognizer = load_model(OLD / "model")
    transcript = recognizer.transcribe(noisy(TEXTS["sentence"], TEXTS["seed"]), depth=depth)
    assert transcript.text == TEXTS["texts"]["model"][str(depth)]
    assert transcript.subset.key == ("001", "011", "111")[depth - 1]


@DEPTHS
def test_the_exported_model_transcribes_as_it_did(depth: int) -> None:
    recognizer = Recognizer(OLD / "exported", threads=1)
    transcript = recognizer.transcribe(noisy(TEXTS["sentence"], TEXTS["seed"]), depth=depth)
    assert transcript.text == TEXTS["texts"]["exported"][str(depth)]
    assert transcript.subset.key == ("001", "011", "111")[depth - 1]


def test_the_model_can_be_searched_and_pruned(tmp_path: Path) -> None:
    shutil.copytree(OLD / "model", tmp_path / "model")
    _, ladder = search_model(tmp_path / "model", write_noisy(tmp_path), workers=0)
    assert [rung.depth for rung in ladder.rungs] == [1, 2, 3]
    subset = prune_model(tmp_path / "model", tmp_path / "pruned", 2)
    samples = noisy(TEXTS["sentence"], TEXTS["seed"])
    expected = load_model(OLD / "model").transcribe(samples, subset=subset).text
    assert load_model(tmp_path / "pruned").transcribe(samples).text == expected


def test_ladders_load_whether_searched_or_trained() -> None:
    trained, searched = Ladder.load(OLD / "ladder.json", 3), Ladder.load(OLD / "model" / "ladder.json", 3)
    assert trained.metric == "trained" and [rung.subset for rung in trained.rungs] == ["100", "110", "111"]
    assert searched.metric == "loss" and [rung.errors for rung in searched.rungs] == [27, 23, 21]
    assert Ladder.load(OLD / "exported" / "ladder.json", 3) == searched


def test_the_profile_loads_on_the_device_that_it_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = json.loads((OLD / "exported" / "profile.json").read_text(encoding="utf-8"))
    monkeypatch.setattr(Device, "here", classmethod(lambda cls: cls(**stored["device"])))
    profile = Profile.beside(OLD / "exported", Manifest.load(OLD / "exported").model_id)
    assert profile is not None and [table.threads for table in profile.tables] == [1, 2]
    costs = profile.table(1)
    assert costs is not None and 0 < costs.total(1, 5.0) < costs.total(3, 5.0)
    assert Recognizer(OLD / "exported").threads == profile.best_threads()


def test_rows_of_a_suite_make_a_table_under_the_names_that_they_have(tmp_path: Path) -> None:
    rows = read_rows(OLD / "results.jsonl")
    assert {row["method"] for row in rows} == {"ld", "dld", "best", "best_long"}
    lines = rates_table(Results(tiny_suite(tmp_path), "test", rows)).splitlines()
    assert lines[0] == "WER in %, mean over seeds (lowest-highest); 9,406 words:"
    assert lines[2] == "| blocks | seeds | 1 | 2 | 4 | 6 | 8 |"
    assert [line.split(" | ")[:2] for line in lines[4:]] == [
        ["| ld", "2"],
        ["| dld", "2"],
        ["| best", "2"],
        ["| best_long", "2"],
    ]
    best = {row["seed"]: row["wer"] for row in rows if row["method"] == "best" and row["depth"] == 8}
    assert f"| {50 * (best[0] + best[1]):.2f} (" in lines[6]


def test_rows_of_a_sweep_make_tables() -> None:
    rows = latest_rows(read_rows(OLD / "sweep" / "sweep.jsonl"))
    assert [(row["method"], row["subset"], row["errors"]) for row in rows] == [
        ("ld", "001", 27),
        ("ld", "011", 23),
        ("ld", "111", 21),
        ("best", "100", 19),
        ("best", "110", 15),
        ("best", "111", 17),
    ]
    console = Console(width=140, record=True)
    console.print(sweep_table(rows, width=140))
    assert "31.25" in console.export_text()
    changes = [change.relative for _, _, change in compare(rows, "ld", OLD / "sweep")]
    assert changes == pytest.approx([19 / 27 - 1, 15 / 23 - 1, 17 / 21 - 1])


def test_a_run_s_figures_are_read() -> None:
    dev = json.loads((OLD / "run" / "dev.json").read_text(encoding="utf-8"))
    assert dev_mean(dev, "wer") == 0.0 and set(dev) == {f"dev_{rate}_at_{n}" for rate in ("wer", "cer") for n in (1, 3)}
    rows = with_train_seconds(read_rows(OLD / "run" / "metrics.jsonl"))
    logged = [row for row in rows if "loss" in row]
    assert [row["step"] for row in logged] == list(range(10, 101, 10))
    assert logged[-1]["loss"] < 0.5 and logged[-1]["train_seconds"] > logged[0]["train_seconds"] > 0


def test_a_recipe_of_version_1_says_what_to_change_and_what_its_run_stored_is_converted() -> None:
    stored: dict[str, Any] = json.loads((OLD / "run" / "meta.json").read_text(encoding="utf-8"))["recipe"]
    with pytest.raises(UserError, match="is of version 1, this layerdial reads 'recipe: 2'"):
        load_recipe(OLD / "recipe.yaml")
    with pytest.raises(UserError, match=r"objective\.exit_power is objective\.exits\.power now"):
        load_recipe(OLD / "recipe.yaml", ["objective.exit_power=2.0"])
    of_today = (OLD / "recipe.yaml").read_text(encoding="utf-8").replace("recipe: 1", "recipe: 2")
    assert parse(Recipe, yaml.safe_load(of_today), "recipe") == Recipe.model_validate(upgraded(stored))
    of_the_model = json.loads((OLD / "model" / "meta.json").read_text(encoding="utf-8"))["recipe"]
    assert of_the_model == stored
