"""`layerdial recipes`: what there is, where copies go, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerdial.config.recipe import load_recipe
from layerdial.utils.shipped import list_shipped
from tiny import command
from tiny_plugins import forget_plugins, own_names  # noqa: F401

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_each_recipe_suite_and_plugin_has_a_line() -> None:
    ended = command("recipes", "list")
    lines = [line.split(maxsplit=1) for line in ended.out.splitlines()]
    names = {
        *(folder.name for folder in (ROOT / "recipes").iterdir() if folder.is_dir()),
        *(f"suites/{file.stem}" for file in (ROOT / "experiments" / "suites").glob("*.yaml")),
        *(f"plugins/{file.stem}" for file in (ROOT / "experiments" / "plugins").glob("*.py")),
    }
    assert ended.code == 0 and {name for name, _ in lines} == names
    assert all(len(summary) > 5 for _, summary in lines)


def test_a_recipe_goes_where_the_documents_say() -> None:
    ended = command("recipes", "copy", "digits-fsdd")
    assert ended.code == 0 and "next: read recipes/digits-fsdd/README.md" in ended.out
    assert all(file.is_file() for shipped in list_shipped() if shipped.name == "digits-fsdd" for file in shipped.files)
    assert Path("recipes/digits-fsdd/folders.py").read_bytes() == (ROOT / "recipes/digits-fsdd/folders.py").read_bytes()
    assert load_recipe(Path("recipes/digits-fsdd/dld.yaml"))


@pytest.mark.parametrize("name", ["wavlm", "recipes/wavlm/", "./recipes/wavlm"])
def test_a_recipe_goes_into_a_folder(name: str) -> None:
    assert command("recipes", "copy", name, "deep/mine").code == 0
    assert {file.name for file in Path("deep/mine").iterdir()} == {
        file.name for file in (ROOT / "recipes/wavlm").iterdir()
    }


@pytest.mark.usefixtures("own_names")
@pytest.mark.parametrize("folder", [[], ["mine"]], ids=str)
def test_a_suite_comes_with_its_plugins_and_the_command_that_runs_it(folder: list[str]) -> None:
    ended = command("recipes", "copy", "experiments/suites/plugin.yaml", *folder)
    forget_plugins()  # another test may have loaded those of the clone
    told = ended.out.splitlines()[-1].removeprefix("next: layerdial ").split()
    ended = command(*told)
    assert (ended.code, ended.err.count("\n")) == (2, 1) and "data/smoke/test.cuts.jsonl.gz does not exist" in ended.err


def test_nothing_is_replaced_unless_that_is_asked_for() -> None:
    Path("mine").mkdir()
    changed = Path("mine/ld.yaml")
    changed.write_text("changed")
    ended = command("recipes", "copy", "tedlium3", "mine")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "layerdial: mine/ld.yaml exists; give another folder, or --force to replace it\n"
    assert [file.name for file in Path("mine").iterdir()] == ["ld.yaml"] and changed.read_text() == "changed"
    assert command("recipes", "copy", "tedlium3", "mine", "--force").code == 0 and changed.read_text() != "changed"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("librispech", "did you mean librispeech or "),
        ("digits", "did you mean suites/digits or "),
        ("suites/dmo", "did you mean suites/demo or "),
        ("plugin", "did you mean suites/plugin"),
        ("q", "'q'; `layerdial recipes list`"),
        ("../../etc", "there is no recipe or suite"),
        ("", "there is no recipe or suite ''"),
    ],
)
def test_a_wrong_name_is_one_line_with_the_nearest(name: str, said: str) -> None:
    ended = command("recipes", "copy", name)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert said in ended.err and "`layerdial recipes list` shows all" in ended.err


def test_a_recipe_that_is_not_there_is_named_with_the_command_that_writes_it() -> None:
    ended = command("train", "recipes/tedlium3/ld.yaml")
    assert ended.code == 2 and "`layerdial recipes copy tedlium3` writes it" in ended.err
    ended = command("bench", "experiments/suites/demo.yaml")
    assert ended.code == 2 and "`layerdial recipes copy suites/demo` writes it" in ended.err
