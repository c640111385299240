"""Keys of earlier versions: files with them are refused by their new names; what runs have stored is still read."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from layerdial.config.old_keys import LAST_COMMIT, gone_key, upgraded
from layerdial.config.recipe import Recipe, load_recipe
from layerdial.errors import UserError
from layerdial.models.checkpoint import load_network
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.suites.plan import asked_for, plan, refuse_changed
from layerdial.suites.suite import load_suite
from layerdial.training.loop import train
from layerdial.utils.files import read_json, write_json
from tiny import losses, tiny_recipe, write_corpus
from tiny_recipes import MINIMAL
from tiny_suite import suite_data, tiny_suite, write_suite

# as a run of version 1 stored them, where they are not as in version 2
OBJECTIVE_1 = {
    "distil_weight": 0.0,
    "distil_growth": 0.0,
    "align_weight": 0.0,
    "exits": "none",
    "exit_weight": 1.0,
    "exit_power": 0.0,
    "exit_distil_weight": 0.0,
    "in_place_weight": 0.0,
    "in_place_divergence": "kl",
    "in_place_ctc": 1.0,
    "temperature": 1.0,
    "blank": "keep",
    "teacher": None,
    "top_k": None,
}
GONE_1: dict[str, dict[str, Any]] = {
    "model": {"n_mels": 80, "conv_norm": "layer", "selector_width": 32},
    "policy": {"end_share": None},
    "optim": {"final_lr_share": 0.01, "betas": [0.9, 0.98]},
}


def as_version_1(recipe: Recipe, **objective: Any) -> dict[str, Any]:
    """What version 1 stored of a recipe, with an objective of its own keys."""
    stored: dict[str, Any] = recipe.model_dump(mode="json", exclude={"plugins"})
    stored["policy"] = {"keep_prob": None, "subsets": None} | stored["policy"]
    for section, keys in GONE_1.items():
        if stored[section] is not None:
            stored[section] |= copy.deepcopy(keys)
    return stored | {"recipe": 1, "objective": OBJECTIVE_1 | objective}


def write(folder: Path, recipe: dict[str, Any]) -> Path:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder / "recipe.yaml"


# ------------------------------------------------------------------------------------------------------ recipe files


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"objective": {"exits": "all", "exit_power": 2.0}}, "objective.exits is objective.exits.at now"),
        ({"objective": {"exit_power": 2.0, "exits": "all"}}, "objective.exit_power is objective.exits.power now"),
        ({"objective": {"distil_weight": 1.0}}, "objective.distil_weight is objective.distil.weight now"),
        ({"objective": {"in_place_ctc": 0.0}}, "objective.in_place_ctc is objective.in_place.ctc_weight now"),
        ({"objective": {"exits": "none"}}, "objective.exits 'none' was the default; leave it out"),
        ({"optim": {"betas": [0.9, 0.98]}}, r"optim.betas \[0.9, 0.98\] was the default; leave it out"),
        (
            {"objective": {"temperature": 2.0}},
            f"objective.temperature is gone .the last commit with it is {LAST_COMMIT}",
        ),
        ({"model": {"size": "xs", "conv_norm": "batch"}}, "model.conv_norm is gone .the last commit with it is"),
        ({}, "no key in it has changed, so change that line"),
    ],
)
def test_a_recipe_of_version_1_is_refused_with_the_new_name_of_its_first_old_key(
    tmp_path: Path, parts: dict[str, Any], message: str
) -> None:
    file = write(tmp_path, {**MINIMAL, "recipe": 1, **parts})
    with pytest.raises(
        UserError, match=f"^recipe {file} is of version 1, this layerdial reads 'recipe: 2': {message}.*; CHANGELOG"
    ) as problem:
        load_recipe(file)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.exit_power=2", "objective.exit_power is objective.exits.power now"),
        ("objective.exits=all", "objective.exits is objective.exits.at now"),
        ("policy.end_share=0.5", "policy.end_share is gone"),
        ("objective={teacher: cached}", "objective.teacher is objective.distil.teacher now"),
    ],
)
def test_an_old_key_by_set_is_refused_alike(tmp_path: Path, override: str, message: str) -> None:
    file = write(tmp_path, MINIMAL)
    with pytest.raises(UserError, match=f"^recipe {file}: {message}"):
        load_recipe(file, [override])


def test_a_group_can_be_left_out_by_null(tmp_path: Path) -> None:
    file = write(tmp_path, {**MINIMAL, "objective": {"exits": {"power": 2.0}}})
    assert load_recipe(file).objective.exits is not None
    assert load_recipe(file, ["objective.exits=null"]).objective.exits is None


# ------------------------------------------------------------------------------------------------------- suite files


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bars": ["dld"]}, "bars is targets now"),
        (
            {"methods": {"a": {"set": {"objective.exits": "all"}}}},
            "methods.a.set: objective.exits is objective.exits.at now",
        ),
        (
            {"methods": {"a": {"set": {"objective": {"teacher": "clean"}}}}},
            "methods.a.set: objective.teacher is objective.distil.teacher now",
        ),
        ({}, "no key in it has changed, so change that line"),
    ],
)
def test_a_suite_of_version_1_is_refused_with_the_new_name(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    file = write_suite(tmp_path, suite_data(tmp_path, tmp_path, tmp_path, suite=1) | change)
    with pytest.raises(
        UserError, match=f"^suite {file} is of version 1, this layerdial reads 'suite: 2': {message}; CHANGELOG"
    ) as problem:
        load_suite(file)
    assert "\n" not in str(problem.value)


def test_old_keys_of_the_common_recipe_and_its_version_are_refused(tmp_path: Path) -> None:
    file = write_suite(tmp_path, suite_data(tmp_path, tmp_path, tmp_path))
    with pytest.raises(UserError, match=f"^suite {file}: recipe: objective.exit_power is objective.exits.power now"):
        load_suite(file, ["recipe.objective.exit_power=2"])
    with pytest.raises(UserError, match=f"^suite {file}, method dld: recipe: Input should be 2, found 1"):
        load_suite(file, ["recipe.recipe=1"])


# -------------------------------------------------------------------------------------------------- what runs stored


@pytest.mark.parametrize(
    ("objective", "changes"),
    [
        ({}, []),
        ({"exits": "all", "exit_power": 2.0}, ["objective.exits={at: all, power: 2.0}"]),
        ({"exits": "middle", "exit_weight": 0.5}, ["objective.exits={at: middle, weight: 0.5}"]),
        (
            {"distil_weight": 3.0, "teacher": "cached", "top_k": 4},
            ["reference=a/b", "objective.distil={weight: 3.0, teacher: cached, top_k: 4}"],
        ),
        ({"distil_weight": 1.0}, ["reference=a/b", "objective.distil={}"]),
        (
            {"in_place_weight": 1.0, "in_place_divergence": "alpha", "in_place_ctc": 0.0},
            ["policy.name=sandwich", "objective.in_place={divergence: alpha, ctc_weight: 0.0}"],
        ),
    ],
)
def test_a_stored_recipe_of_version_1_is_the_same_recipe(
    tmp_path: Path, objective: dict[str, Any], changes: list[str]
) -> None:
    recipe = tiny_recipe(tmp_path / "run", Path("train"), Path("dev"), *changes)
    stored = as_version_1(recipe, **objective)
    assert gone_key(stored) is None
    assert Recipe.model_validate(upgraded(stored)) == recipe
    assert upgraded(recipe.model_dump(mode="json")) == recipe.model_dump(mode="json")


def stored_as_version_1(run: Path, recipe: Recipe, **objective: Any) -> None:
    """Write what a run of version 1 left in the place of what this one did."""
    for file in (run / "meta.json", run / "model" / "meta.json"):
        if file.is_file():
            write_json(file, read_json(file) | {"recipe": as_version_1(recipe, **objective)})
    config = run / "model" / "config.json"
    if config.is_file():
        described = read_json(config)
        write_json(config, described | {"model": described["model"] | GONE_1["model"]})


def test_a_run_of_version_1_goes_on_and_a_finished_one_is_finished(corpus, tmp_path: Path) -> None:
    changes = ("policy.name=none", "objective.exits.power=2", "train.steps=4", "train.eval_every=2")
    old = {"exits": "all", "exit_power": 2.0}
    whole = tiny_recipe(tmp_path / "whole", corpus.train, corpus.dev, *changes)
    model = train(whole)
    made = (model / "model.safetensors").stat().st_mtime_ns
    stored_as_version_1(whole.out, whole, **old)
    assert train(whole, resume=True) == model and (model / "model.safetensors").stat().st_mtime_ns == made

    expected = losses(whole.out)
    for newer in (model, whole.out / "checkpoints" / "step-00000004"):  # as if it had been killed after two steps
        shutil.rmtree(newer)
    train(whole, resume=True)
    assert losses(whole.out) == expected


def test_a_run_that_used_a_key_that_is_gone_does_not_go_on(corpus, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, "train.steps=1")
    train(recipe)
    stored_as_version_1(recipe.out, recipe, align_weight=0.5)
    with pytest.raises(UserError, match=r"begun with objective\.align_weight 0\.5, which is gone") as problem:
        train(recipe, resume=True)
    assert LAST_COMMIT in str(problem.value) and "\n" not in str(problem.value)


def test_a_suite_goes_on_with_runs_of_version_1(tmp_path: Path) -> None:
    manifest = write_corpus(tmp_path / "dev.cuts.jsonl.gz", ["low", "high"])
    shutil.copy(manifest, tmp_path / "train.cuts.jsonl.gz")
    suite = tiny_suite(tmp_path)
    run = ("dld", 0)
    asked = json.loads(json.dumps(asked_for(suite, *run)))
    asked["recipe"] = as_version_1(suite.recipe_of(*run), distil_weight=1.0) | {
        key: asked["recipe"][key] for key in ("data", "train", "reference")
    }
    del asked["recipe"]["out"]
    (suite.folder(*run)).mkdir(parents=True)
    runs = {run: plan(suite)[run]}
    write_json(suite.folder(*run) / "asked.json", asked)
    refuse_changed(suite, runs)
    asked["recipe"]["objective"]["distil_weight"] = 2.0
    write_json(suite.folder(*run) / "asked.json", asked)
    with pytest.raises(UserError, match=r"begun with recipe\.objective\.distil\.weight 2\.0, now 1\.0"):
        refuse_changed(suite, runs)
    asked["recipe"]["objective"]["temperature"] = 2.0
    write_json(suite.folder(*run) / "asked.json", asked)
    with pytest.raises(UserError, match=r"begun with objective\.temperature 2\.0, which is gone .* --fresh dld"):
        refuse_changed(suite, runs)


def test_a_stored_network_with_keys_that_are_gone_loads_where_they_were_at_their_defaults(
    learnt: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(learnt, folder)
    described = read_json(folder / "config.json")
    write_json(folder / "config.json", described | {"model": described["model"] | GONE_1["model"]})
    network = load_network(folder)[0]
    assert isinstance(network, ConformerCTC) and network.config == load_network(learnt)[0].config
    write_json(folder / "config.json", described | {"model": described["model"] | {"conv_norm": "batch"}})
    with pytest.raises(UserError, match=r"config\.json has model\.conv_norm 'batch', which is gone") as problem:
        load_network(folder)
    assert LAST_COMMIT in str(problem.value) and "\n" not in str(problem.value)
