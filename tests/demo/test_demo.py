"""The demo, with a few seconds of speech and a few steps of training, makes everything that it promises."""

from __future__ import annotations

import io
import json
import shlex
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from layerdial.config.recipe import Recipe
from layerdial.data.synthesis import demo_corpus as synth
from layerdial.demo import run as demo
from layerdial.errors import UserError
from layerdial.utils.rows import Row, read_rows
from tiny import command

pytest.importorskip("espeakng_loader")
DEPTHS = (1, 2)


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo's folder, and what its second run printed, which trains and measures nothing again."""
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "120")  # error rates far above 100 % need the room
        few = {"train": 40 / 3600, "dev": 15 / 3600, "test": 15 / 3600}
        patch.setattr(synth, "prepare_demo", partial(synth.prepare_demo, hours=few, workers=1))
        patch.setattr(demo, "demo_recipe", partial(_short, demo.demo_recipe))
        demo.run_demo(out)
        made = _results(out)
        with redirect_stdout(io.StringIO()) as printed:
            demo.run_demo(out)
        assert made == _results(out)
    return out, printed.getvalue()


@pytest.fixture(scope="module")
def rows(demo_run: tuple[Path, str]) -> list[Row]:
    return read_rows(demo_run[0] / "sweep.jsonl")


def test_every_method_has_a_model_and_a_ladder(demo_run: tuple[Path, str]) -> None:
    for method in demo.METHODS:
        model = demo_run[0] / method / "model"
        assert (model / "model.safetensors").is_file()
        assert len(json.loads((model / "ladder.json").read_text())["rungs"]) == len(DEPTHS)


def test_sweep_has_a_row_for_every_method_and_depth(demo_run: tuple[Path, str], rows: list[Row]) -> None:
    assert [(row["method"], row["depth"]) for row in rows] == [(m, d) for m in demo.METHODS for d in DEPTHS]
    assert all(row["latency_ms"] > 0 and row["rtf"] > 0 for row in rows)
    assert (demo_run[0] / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_latency_is_measured_once_for_networks_of_the_same_shape_and_says_so(rows: list[Row]) -> None:
    full = {row["method"]: row for row in rows if row["subset"] == "11"}
    assert [full[method].get("timed_with") for method in demo.METHODS] == [None, "reference", "reference", None]
    assert full["ld"]["latency_ms"] == full["dld"]["latency_ms"] == full["reference"]["latency_ms"]
    assert full["sc_exits"]["latency_ms"] != full["reference"]["latency_ms"]


def test_the_end_shows_all_methods_and_says_which_words_are_known(demo_run: tuple[Path, str]) -> None:
    lines = [line.split() for line in demo_run[1].splitlines()]
    assert ["blocks", *demo.METHODS] in lines
    compared = [(line[0], line[2]) for line in lines if line[1:2] == ["ladder"]]
    assert compared == [(method, str(depth)) for method in ("dld", "sc_exits") for depth in DEPTHS]
    known = f"The models know synthetic voices only, and these 37 words alone: {', '.join(synth.VOCABULARY)}."
    assert known in " ".join(demo_run[1].split())


def test_the_command_of_the_last_line_works_as_it_is_written(demo_run: tuple[Path, str]) -> None:
    last = demo_run[1].splitlines()[-1]
    assert last.startswith("next: ")
    check_command(last.removeprefix("next: "))


def test_every_model_has_a_card(demo_run: tuple[Path, str], rows: list[Row]) -> None:
    for method in demo.METHODS:
        card = (demo_run[0] / method / "model" / "README.md").read_text()
        assert all(word in card for word in synth.VOCABULARY)
        assert "synthetic voices only" in card and "espeak-ng" in card
        check_command(next(line for line in card.splitlines() if line.startswith("layerdial transcribe")))
        own = [row for row in rows if row["method"] == method]
        assert all(f"| {row['depth']} | `{row['subset']}` | {100 * row['wer']:.1f} (" in card for row in own)


def test_picture_names_methods_as_the_rows_do(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(
        "layerdial.evaluation.plots.draw_sweep", lambda rows, *_: drawn.extend(row["method"] for row in rows)
    )
    demo._draw([{"method": method} for method in demo.METHODS], Path("sweep.png"))
    assert [name.rpartition(" ")[2] for name in drawn] == [f"({method})" for method in demo.METHODS]


def test_ld_and_dld_differ_in_the_teacher_alone(tmp_path: Path) -> None:
    ld, dld = (demo.demo_recipe(method, tmp_path).model_dump(exclude={"out"}) for method in ("ld", "dld"))
    assert [key for key in ld if ld[key] != dld[key]] == ["objective"]
    assert dld["objective"]["distil"]["weight"] > 0


def test_all_methods_have_the_same_data_and_exits_fewer_updates_than_a_reference_and_its_student(
    tmp_path: Path,
) -> None:
    recipes = [demo.demo_recipe(method, tmp_path) for method in demo.METHODS]
    assert [recipe.init for recipe in recipes] == ["scratch", "reference", "reference", "scratch"]
    assert [recipe.train.steps for recipe in recipes] == [1800, 1800, 1800, 2400]
    pauses = [recipe.data.pauses for recipe in recipes]
    assert [kind.from_epoch for kind in pauses if kind is not None] == [8, 0, 0, 8]  # CTC learns sooner without
    assert (
        len({kind.model_copy(update={"from_epoch": 0}).model_dump_json() for kind in pauses if kind is not None}) == 1
    )
    assert len({recipe.data.model_copy(update={"pauses": None}).model_dump_json() for recipe in recipes}) == 1


def test_models_of_another_recipe_are_not_passed_off_as_the_demos(demo_run: tuple[Path, str]) -> None:
    out, _ = demo_run
    with pytest.raises(UserError, match=r"reference was trained by another recipe .*\(model, train\); remove"):
        demo.run_demo(out)


def check_command(line: str) -> None:
    _, *arguments = shlex.split(line)
    done = command(*arguments)
    assert done.code == 0, done.err


def _short(real: Any, method: str, out: Path) -> Recipe:
    recipe = real(method, out)
    train = recipe.train.model_copy(update={"steps": 2, "eval_every": 2})
    model = recipe.model and recipe.model.model_copy(update={"n_blocks": 2, "width": 16, "ffn_width": 16, "heads": 2})
    data = recipe.data.model_copy(update={"workers": 0})
    return recipe.model_copy(update={"train": train, "model": model, "data": data})


def _results(out: Path) -> list[bytes]:
    files = [out / method / "model" / name for method in demo.METHODS for name in ("model.safetensors", "README.md")]
    return [file.read_bytes() for file in (*files, out / "sweep.jsonl")]
