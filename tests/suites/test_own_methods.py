"""A policy of one's own in a suite: compared with others by `layerdial bench`, in processes that load it themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from layerdial.errors import UserError
from layerdial.suites.plan import plan, refuse_changed
from layerdial.suites.suite import load_suite
from layerdial.utils.files import read_json, write_json
from layerdial.utils.rows import read_rows
from tiny import command, sentences, write_corpus
from tiny_plugins import CONV_STACK, ROOT, forget_plugins, own_names, write_policy
from tiny_suite import METHODS, suite_data, write_suite

__all__ = ["own_names"]
pytestmark = pytest.mark.usefixtures("own_names")
OWN = {"own": {"set": {"policy": {"name": "own"}}}}


def data_with(folder: Path, plugin: Path, **changes: Any) -> dict[str, Any]:
    manifest = write_corpus(folder / "dev.cuts.jsonl.gz", ["low", "high"])
    return suite_data(folder, manifest, manifest, plugins=[str(plugin)], methods=METHODS | OWN) | changes


def test_the_recipes_of_a_suite_have_its_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_policy(tmp_path / "mine.py")
    monkeypatch.chdir(tmp_path)
    suite = load_suite(write_suite(tmp_path, data_with(tmp_path, Path("mine.py"))))
    assert suite.plugins == suite.recipe_of("ld", 0).plugins == (tmp_path.resolve() / "mine.py",)
    forget_plugins()
    assert suite.recipe_of("own", 0).policy.name == "own"  # as a worker finds it, which knows the suite alone


def test_plugins_of_an_entry_alone_are_refused(tmp_path: Path) -> None:
    file = write_policy(tmp_path / "mine.py")
    methods = {"own": {"set": {"plugins": [str(file)], "policy": {"name": "own"}}}}
    with pytest.raises(UserError, match=r"methods\.own has plugins; they are a key of the suite, for all of it"):
        load_suite(write_suite(tmp_path, data_with(tmp_path, file, methods=methods)))


def test_a_changed_plugin_changes_the_entries_that_use_it_and_no_others(tmp_path: Path) -> None:
    file = write_policy(tmp_path / "mine.py")
    written = write_suite(tmp_path, data_with(tmp_path, file))
    suite = load_suite(written)
    before = plan(suite)
    for run, origin in before.items():
        write_json(suite.folder(*run) / "asked.json", origin.asked)
    file.write_text(file.read_text() + "\n# a change\n")
    suite = load_suite(written)
    after = plan(suite)
    changed = {run[0] for run in before if before[run].asked_digest != after[run].asked_digest}
    assert changed == {"own"}
    with pytest.raises(UserError, match=r"own/seed-0 was begun with own code\.policy own '\w+', now '\w+'; change it"):
        refuse_changed(suite, after)


def test_a_plugin_that_moved_changes_nothing(tmp_path: Path) -> None:
    file = write_policy(tmp_path / "mine.py")
    before = plan(load_suite(write_suite(tmp_path, data_with(tmp_path, file))))
    forget_plugins()
    moved = file.rename(tmp_path / "moved.py")
    after = plan(load_suite(write_suite(tmp_path, data_with(tmp_path, moved))))
    assert [origin.asked for origin in before.values()] == [origin.asked for origin in after.values()]


def test_a_family_of_ones_own_is_tested_at_its_number_of_blocks(tmp_path: Path) -> None:
    changes = {"model": {"family": "conv_stack", "n_blocks": 2}, "policy": {"name": "none"}}
    data = data_with(tmp_path, CONV_STACK, methods={"stack": {"set": changes}})
    suite = load_suite(write_suite(tmp_path, data))
    assert suite.select_of("stack") == "full" and suite.depths_of("stack") == (2,)


def test_the_suite_of_the_documents_compares_the_policy_with_ld_and_dld(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    suite = load_suite(Path("experiments/suites/plugin.yaml"))
    smoke = load_suite(Path("experiments/suites/smoke.yaml"))
    assert suite.recipe == smoke.recipe and suite.test == smoke.test
    assert list(suite.methods) == ["reference", "ld", "dld", "first_block"]
    assert all(suite.methods[name] == smoke.methods[name] for name in ("reference", "ld", "dld"))


@pytest.mark.slow
def test_bench_runs_the_suite_of_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, count in (("train", 20), ("dev", 4), ("test", 4)):
        write_corpus(tmp_path / "data" / "smoke" / f"{split}.cuts.jsonl.gz", sentences(count))
    shutil.copytree(ROOT / "experiments" / "plugins", tmp_path / "experiments" / "plugins")
    monkeypatch.chdir(tmp_path)
    few = [part for key in ("steps=4", "eval_every=2") for part in ("--set", f"recipe.train.{key}")]
    ended = command("bench", ROOT / "experiments/suites/plugin.yaml", *few, "--jobs", "2", "--seed", "0")
    assert ended.code == 0, ended.err
    out = tmp_path / "runs" / "bench" / "plugin"
    rows = [row for row in read_rows(out / "results.jsonl") if row["name"] == "first_block"]
    assert [row["depth"] for row in rows] == [1, 2, 4] and {row["select"] for row in rows} == {"search"}
    assert "| first_block |" in (out / "report.md").read_text()
    meta = read_json(out / "first_block/seed-0/meta.json")
    assert meta["recipe"]["plugins"] == [str(tmp_path / "experiments/plugins/first_block.py")]
    assert meta["own_code"].keys() == {"policy first_block"}
    asked = json.loads((out / "first_block/seed-0/asked.json").read_text())
    assert asked["own code"] == meta["own_code"] and str(tmp_path) not in json.dumps(asked)
