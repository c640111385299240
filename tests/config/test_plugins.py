"""What a user's files and installed packages register is found by its name, and what is wrong with them is one line."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from layerdial.config.plugins import load_plugins
from layerdial.config.policies import POLICIES, register_policy
from layerdial.config.recipe import Recipe, load_recipe, own_code, with_defaults
from layerdial.errors import UserError
from tiny_plugins import CONFIDENCE_PENALTY, CONV_STACK, FIRST_BLOCK, own_names, write_policy

__all__ = ["own_names"]
pytestmark = pytest.mark.usefixtures("own_names")

RECIPE: dict[str, Any] = {
    "recipe": 2,
    "out": "runs/x",
    "model": {"size": "xs"},
    "tokenizer": {"kind": "word"},
    "data": {"train": "train.cuts.jsonl.gz", "dev": "dev.cuts.jsonl.gz"},
    "policy": {"name": "none"},
    "train": {"steps": 10},
}


def load(folder: Path, *overrides: str, **parts: Any) -> Recipe:
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **parts}))
    return load_recipe(folder / "recipe.yaml", overrides)


def test_a_recipe_has_the_settings_of_what_its_plugins_register(tmp_path: Path) -> None:
    plugins = [str(CONFIDENCE_PENALTY), str(CONV_STACK), str(FIRST_BLOCK)]
    parts = {"policy": {"name": "first_block"}, "objective": {"name": "confidence_penalty", "weight": 0.2}}
    recipe = load(tmp_path, "policy.keep_prob=0.25", plugins=plugins, model={"family": "conv_stack"}, **parts)
    assert recipe.policy.model_dump() == {"name": "first_block", "keep_prob": 0.25}
    assert recipe.objective.model_dump() == {"name": "confidence_penalty", "weight": 0.2}
    assert recipe.model is not None and recipe.model.block_count() == 8
    assert own_code(recipe).keys() == {"policy first_block", "objective confidence_penalty", "network conv_stack"}
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert with_defaults(recipe.model_dump(mode="json")) == recipe.model_dump(mode="json")


def test_paths_are_relative_to_the_working_directory_and_stored_as_absolute_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_policy(tmp_path / "mine.py")
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load(tmp_path / "recipes", plugins=["mine.py"]).plugins == (tmp_path.resolve() / "mine.py",)


def test_a_stored_recipe_does_not_execute_the_files_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('executed')")
    stored = RECIPE | {"plugins": [str(tmp_path / "evil.py")]}
    assert with_defaults(stored)["plugins"] == stored["plugins"]
    assert with_defaults(stored | {"policy": {"name": "unheard"}})["policy"] == {"name": "unheard"}


def test_a_stored_recipe_with_the_settings_of_all_policies_is_the_same_recipe(tmp_path: Path) -> None:
    recipe = load(tmp_path).model_dump(mode="json")
    stored = recipe | {"policy": {"name": "none", "keep_prob": None, "subsets": None}}
    stored["objective"] = {"distil": None, "exits": None, "in_place": None}
    del stored["plugins"]
    assert with_defaults(stored) == recipe


def test_a_file_is_executed_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    file = write_policy(tmp_path / "mine.py")
    load_plugins([file])
    first = POLICIES.find("own")
    load_plugins([file, tmp_path / "." / "mine.py"])
    assert POLICIES.find("own") is first
    version = POLICIES.source("own").version
    write_policy(file, "renamed")
    load_plugins([file])
    assert POLICIES.find("own") is None and POLICIES.find("renamed") is not None
    assert POLICIES.source("renamed").version != version


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"plugin mine\.py does not exist \(looked for in /.*\); give a Python file"),
        ("x = 1\ny = x / 0\n", r"plugin mine\.py does not import: line 2: ZeroDivisionError: division by zero"),
        ("x = 1\n\ndef f(:\n", r"plugin mine\.py does not import: line 3: SyntaxError: "),
        ("import no_such_thing", r"does not import: line 1: ModuleNotFoundError: No module named 'no_such_thing'"),
        ("import sys\nsys.exit(3)", r"does not import: line 2: SystemExit: 3"),
        ("raise ValueError('two\\nlines')", r"line 1: ValueError: two lines"),
        ("x = 1", r"plugin mine\.py registers nothing; it has a class with @register_policy, "),
        (
            "from layerdial import register_policy\n@register_policy('own')\nclass Own: pass",
            r"plugin mine\.py: policy own is no Policy: derive its class from Policy",
        ),
        (
            "from layerdial import Policy, register_policy\n@register_policy('own')\nclass Own(Policy):\n"
            "    def draw(self, step, stack, rng): ...",
            r"plugin mine\.py: policy own lacks subset_at; see docs/plugins\.md",
        ),
        (
            "from layerdial import Policy, register_policy\n@register_policy('my own')\nclass Own(Policy): pass",
            r"plugin mine\.py: 'my own' cannot be the name of a policy; use letters",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    before = POLICIES.known()
    with pytest.raises(UserError, match=message) as problem:
        load(tmp_path, plugins=["mine.py"])
    assert "\n" not in str(problem.value)
    assert POLICIES.known() == before


@pytest.mark.parametrize("name", ["mine.txt", "folder.py"])
def test_what_is_no_python_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match=f"{name} is no Python file"):
        load_plugins([tmp_path / name])


def test_a_name_that_is_taken_is_refused_and_by_whom_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"b\.py: the name of policy prefix is taken by layerdial; choose another"):
        load_plugins([write_policy(tmp_path / "b.py", "prefix")])
    load_plugins([write_policy(tmp_path / "a.py")])
    with pytest.raises(UserError, match=rf"b\.py: the name of policy own is taken by {tmp_path}/a\.py"):
        load_plugins([write_policy(tmp_path / "b.py")])
    assert POLICIES.source("own").who == str(tmp_path / "a.py")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"policy": {"name": "first_blok"}}, r"policy\.name is 'first_blok'; did you mean first_block\? choose none, "),
        ({"policy": {"name": ["a"]}}, r"policy\.name is \['a'\]; choose none"),
        (
            {"policy": {"name": "first_block", "keep_porb": 1}},
            r"unknown config key policy\.keep_porb; did you mean keep_prob\? known keys: name, keep_prob",
        ),
        (
            {"policy": {"name": "first_block", "subsets": "even"}},
            r"policy\.subsets: policy first_block takes no subsets; uniform_count and sandwich do",
        ),
        ({"policy": {"name": "first_block", "keep_prob": 2}}, r"policy\.keep_prob: .*less than or equal to 1, found 2"),
        (
            {"objective": {"name": "penalty"}},
            r"objective\.name is 'penalty'; choose ctc or confidence_penalty, ",
        ),
        (
            {"objective": {"name": "confidence_penalty", "exits": {}}},
            r"objective confidence_penalty takes no exits; ctc does",
        ),
        ({"model": {"family": "stack"}}, r"model\.family is 'stack'; .*choose conformer, hf or conv_stack"),
        ({"model": {"family": "conv_stack", "heads": 2}}, r"network conv_stack takes no heads; conformer does"),
    ],
)
def test_names_and_settings_that_are_wrong_are_one_line(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as problem:
        load(tmp_path, plugins=[str(CONFIDENCE_PENALTY), str(CONV_STACK), str(FIRST_BLOCK)], **parts)
    assert "\n" not in str(problem.value)


def test_a_setting_without_a_default_is_asked_for(tmp_path: Path) -> None:
    file = write_policy(tmp_path / "mine.py")
    file.write_text(file.read_text() + "\n    share: float\n")
    with pytest.raises(UserError, match=r": policy own needs share$"):
        load(tmp_path, plugins=[str(file)], policy={"name": "own"})


# ------------------------------------------------------------------------------------------------ installed packages


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for modules, where a package is installed that offers policies from one of them."""
    installed = tmp_path / "own_policies-1.2.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: own-policies\nVersion: 1.2\n")
    points = (
        "[layerdial.policies]\npackaged = own_policies:Own\nbroken = own_policies_broken:Own\nother = own_policies\n"
    )
    (installed / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("own_policies", "own_policies_broken"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


def test_a_package_offers_a_policy_by_an_entry_point(package: Path) -> None:
    write_policy(package / "own_policies.py", "packaged")
    recipe = load(package, policy={"name": "packaged"})
    assert recipe.policy.name == "packaged" and own_code(recipe) == {"policy packaged": "1.2"}
    assert POLICIES.source("packaged").who == "package own-policies"


def test_an_entry_point_gives_its_class_the_name(package: Path) -> None:
    file = write_policy(package / "own_policies.py")
    file.write_text(file.read_text().replace('@register_policy("own")\n', ""))
    assert load(package, policy={"name": "packaged"}).policy.name == "packaged"


def test_an_entry_point_that_does_not_import_or_is_no_policy_is_one_line(package: Path) -> None:
    write_policy(package / "own_policies.py", "packaged")
    with pytest.raises(UserError, match="policy broken of package own-policies does not import: ModuleNotFoundError"):
        load(package, policy={"name": "broken"})
    with pytest.raises(UserError, match="policy other is no Policy"):
        load(package, policy={"name": "other"})


def test_what_packages_offer_is_listed(package: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean packaged\? choose none, .*, packaged, broken or other"):
        load(package, policy={"name": "package"})


def test_entry_points_are_looked_up_for_unknown_names_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**selection: Any) -> Any:
        raise RuntimeError("looked up")

    monkeypatch.setattr(metadata, "entry_points", refuse)
    load(tmp_path, plugins=[str(FIRST_BLOCK)], policy={"name": "first_block"})
    with pytest.raises(UserError, match="plugins"):
        load(tmp_path, plugins="x")
    with pytest.raises(RuntimeError, match="looked up"):
        load(tmp_path, policy={"name": "unheard"})


# -------------------------------------------------------------------------------------------------------- in Python


def test_a_class_can_be_registered_without_a_file() -> None:
    @register_policy("in_python")
    class InPython(POLICIES.entries["prefix"].settings):  # type: ignore[misc, name-defined]
        """The built-in one by another name."""

    policy = POLICIES.parse({"name": "in_python"})
    assert isinstance(policy, InPython) and POLICIES.source("in_python").who == __file__
    assert not POLICIES.is_built_in("in_python") and POLICIES.is_built_in("prefix")
