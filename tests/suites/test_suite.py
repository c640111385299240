"""Suites: what each entry's recipe is, who needs whom, and that a mistake is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layerdial.config.objective import DistilConfig
from layerdial.errors import UserError
from layerdial.suites.plan import _first_difference
from layerdial.suites.rows import labels
from layerdial.suites.suite import Hearing, Origin, load_suite
from tiny_plugins import own_names
from tiny_suite import METHODS, tiny_suite

__all__ = ["own_names"]

REPOSITORY = Path(__file__).parents[2]
SUITES = sorted((REPOSITORY / "experiments" / "suites").glob("*.yaml"))
CHAIN = {**METHODS, "ld_long": {"continues": "ld", "rounds": 3}}


def test_there_are_suites() -> None:
    assert SUITES


@pytest.mark.parametrize("file", SUITES, ids=lambda file: file.name)
def test_every_suite_loads_and_says_how_it_is_run(file: Path, monkeypatch: pytest.MonkeyPatch, own_names: None) -> None:
    monkeypatch.chdir(REPOSITORY)  # where plugins are looked for
    suite = load_suite(file)
    assert suite.order()
    first = file.read_text(encoding="utf-8").splitlines()
    comments = [line for line in first if line.startswith("#")]
    assert any(f"layerdial bench {file.relative_to(REPOSITORY)}" in line for line in comments)


def test_the_suite_in_the_documentation_is_one(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs/benchmarking.md").read_text(encoding="utf-8")
    (tmp_path / "suite.yaml").write_text(text.partition("```yaml")[2].partition("```")[0])
    assert load_suite(tmp_path / "suite.yaml").label("static_4") == "static"


def test_an_entry_changes_the_common_recipe_where_it_says_and_nowhere_else(tmp_path: Path) -> None:
    suite = tiny_suite(tmp_path)
    ld, dld = suite.recipe_of("ld", 1), suite.recipe_of("dld", 1)
    assert dld.objective.distil == DistilConfig() and dld.reference == suite.out / "reference/seed-1/model"
    changed = {"out": dld.out, "objective": dld.objective, "reference": dld.reference}
    assert ld.model_copy(update=changed) == dld
    assert ld.train.seed == 1 and ld.out == suite.out / "ld/seed-1"


def test_what_drops_no_block_is_tested_and_selected_whole(tmp_path: Path) -> None:
    suite = tiny_suite(tmp_path)
    assert suite.select_of("reference") == suite.select_of("static_2") == "full"
    assert suite.depths_of("reference") == (3,) and suite.depths_of("static_2") == (2,)
    assert suite.recipe_of("static_2", 0).train.eval_depths is None
    assert suite.select_of("ld") == "search" and suite.depths_of("ld") == (1, 2, 3)
    assert suite.recipe_of("ld", 0).train.eval_depths == (1, 3)


def test_the_metric_is_what_checkpoints_are_chosen_by(tmp_path: Path) -> None:
    assert tiny_suite(tmp_path, metric="cer").recipe_of("ld", 0).train.select_by == "cer"
    assert tiny_suite(tmp_path, "recipe.train.select_by=wer", metric="cer").recipe_of("ld", 0).train.select_by == "wer"


def test_a_chain_goes_on_from_round_to_round_with_other_seeds(tmp_path: Path) -> None:
    suite = tiny_suite(tmp_path, methods=CHAIN)
    rounds = [suite.recipe_of("ld_long", 1, number) for number in (1, 2, 3)]
    starts = [suite.model("ld", 1), *(recipe.out / "model" for recipe in rounds[:2])]
    assert [recipe.init for recipe in rounds] == list(map(str, starts))
    assert len({suite.recipe_of("ld", 1).train.seed, *(recipe.train.seed for recipe in rounds)}) == 4
    assert all(recipe.train.steps == suite.recipe_of("ld", 1).train.steps for recipe in rounds)


def test_a_chain_of_another_needs_that_chain_and_has_no_more_rounds(tmp_path: Path) -> None:
    like = {"dld_long": {"continues": "dld", "rounds_like": "ld_long"}}
    suite = tiny_suite(tmp_path, methods=CHAIN | like)
    assert suite.rounds("dld_long") == 3
    assert set(suite.needs("dld_long")) == {"reference", "dld", "ld_long"}
    assert suite.recipe_of("dld_long", 0).reference == suite.model("reference", 0)
    order = suite.order()
    assert order.index("dld_long") > max(order.index("ld_long"), order.index("dld"))


@pytest.mark.parametrize(
    ("methods", "problem"),
    [
        ({"ld": {"sett": {}}}, "unknown config key methods.ld.sett; did you mean set?"),
        ({"ld": {"set": {"trian.steps": 3}}}, "method ld: unknown config key trian; did you mean train?"),
        ({"dld": {"reference": "teacher"}}, "methods.dld.reference is 'teacher'; methods are dld"),
        ({"a": {"init": "b"}, "b": {"init": "a"}}, "methods wait for each other: "),
        ({"ld": {"depths": [4]}}, "methods.ld has 3 blocks and is tested at depth 4"),
        ({"x": {"set": {"policy": {"name": "none"}}, "depths": [1]}}, "methods.x runs whole, at depth 3, its depths"),
        ({"a": {"method": "x"}, "b": {"method": "x"}}, "methods.b and methods.a are both called x at depth 1"),
        (
            {"x": {"init": "some/model", "set": {"model": {"family": "hf"}, "policy": {"name": "none"}}}},
            "methods.x runs whole; set its depths to the number of its blocks, for example [12]",
        ),
        ({"a": {"set": {"train.seed": 7}}}, "methods.a has train.seed, which the suite sets by itself"),
        ({"a": {"set": {"out": "runs/x"}}}, "methods.a has out, which the suite sets by itself"),
        ({"a": {"seeds": [0]}, "b": {"init": "a"}}, "methods.b has seed 1, a, which it needs, has 0"),
        ({"a": {"rounds": 2}}, "rounds is for an entry that continues another"),
        ({"a": {}, "b": {"continues": "a"}}, "continues needs either rounds"),
        ({**CHAIN, "more": {"continues": "ld_long", "rounds": 1}}, "methods.more continues ld_long, a chain itself"),
        ({**CHAIN, "more": {"continues": "ld", "rounds_like": "dld"}}, "rounds_like is 'dld', which is no chain"),
        ({"a/b": {}}, "'a/b' cannot be a name"),
        ({"a": {"min_gain": 0.1}}, "min_gain is for an entry that continues another"),
        ({"a": {"depths": []}}, "methods.a.depths: "),
        ({"a": {"seeds": []}}, "methods.a.seeds: "),
        ({"a": {"set": {"policy": "none"}}}, "policy: "),
        ({"a": {"set": {"policy": {"name": "none"}, "objective": "all"}}}, "objective: "),
    ],
)
def test_a_mistake_is_one_line_that_names_the_suite(tmp_path: Path, methods: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError) as raised:
        tiny_suite(tmp_path, methods=methods)
    assert problem in str(raised.value) and "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"suite {tmp_path / 'suite.yaml'}")


@pytest.mark.parametrize("key", ["baselines", "targets"])
def test_what_the_report_compares_has_to_be_there(tmp_path: Path, key: str) -> None:
    with pytest.raises(
        UserError, match=f"suite.yaml: {key} has 'bset'; methods are called dld, ld, reference, static$"
    ):
        tiny_suite(tmp_path, **{key: ["bset"]})
    assert tiny_suite(tmp_path).baselines  # what is not said is taken where it is there


def test_a_key_that_recipes_get_later_is_no_difference_at_its_default() -> None:
    before = {"recipe": {"train": {"steps": 3}}}
    now = {"recipe": {"train": {"steps": 3, "later": 7}, "new": {"key": 1}}}
    assert _first_difference(before, now, {"recipe": {"train": {"steps": 3}}}) is None
    found = _first_difference(before, now, {"recipe": {"train": {"steps": 3, "later": 7}}})
    assert found == "recipe.train.later None, now 7"
    assert _first_difference(before, {"recipe": {"train": {"steps": 4}}}, {}) == "recipe.train.steps 3, now 4"


def test_streaming_networks_are_tested_in_chunks_too(tmp_path: Path) -> None:
    streaming = {"model.normalise": "fixed", "model.streaming": {"chunk_ms": [80, "full"]}}
    suite = tiny_suite(tmp_path, methods={"ld": {}, "chunks": {"set": streaming}}, chunk_ms=["full", 80])
    assert suite.hearings_of("ld") == {"test": Hearing("test", None)}
    assert suite.hearings_of("chunks") == {"test": Hearing("test", None), "test-80ms": Hearing("test", 80)}
    origin = Origin("", {}, {}, {"test": "contents"})
    row = labels(suite, ("chunks", 0), origin, "test-80ms", 2)
    assert (row["test"], row["chunk_ms"], row["test_contents"]) == ("test-80ms", 80, "contents")
    assert "chunk_ms" not in labels(suite, ("chunks", 0), origin, "test", 2)
