"""The demo, with a few seconds of speech and a few steps of training, makes everything that it promises."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from layerdial import demo
from layerdial.config import Recipe
from layerdial.data import synth

pytest.importorskip("espeakng_loader")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's folder, made twice: the second time nothing is trained or measured again."""
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        few = {"train": 40 / 3600, "dev": 15 / 3600, "test": 15 / 3600}
        patch.setattr(synth, "prepare_demo", partial(synth.prepare_demo, hours=few, workers=1))
        patch.setattr(demo, "demo_recipe", partial(_short, demo.demo_recipe))
        demo.run_demo(out)
        weights = {method: _weights(out, method) for method in demo.METHODS}
        rows = (out / "sweep.jsonl").read_bytes()
        demo.run_demo(out)
        assert weights == {method: _weights(out, method) for method in demo.METHODS}
        assert rows == (out / "sweep.jsonl").read_bytes()
    return out


def test_every_method_has_a_model_and_a_ladder(made: Path) -> None:
    for method in demo.METHODS:
        model = made / method / "model"
        assert (model / "model.safetensors").is_file()
        assert len(json.loads((model / "ladder.json").read_text())["rungs"]) == 2


def test_sweep_has_a_row_for_every_method_and_depth(made: Path) -> None:
    rows = [json.loads(line) for line in (made / "sweep.jsonl").read_text().splitlines()]
    assert sorted((row["method"], row["depth"]) for row in rows) == [
        (m, d) for m in sorted(demo.METHODS) for d in (1, 2)
    ]
    assert (made / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_sc_exits_trains_on_the_same_data_as_the_others_and_makes_fewer_updates_in_all(tmp_path: Path) -> None:
    reference, ld, sc_exits = (demo.demo_recipe(method, tmp_path) for method in demo.METHODS)
    assert (ld.init, sc_exits.init, sc_exits.reference) == ("reference", "scratch", None)
    assert ld.data == sc_exits.data == reference.data
    assert sc_exits.train.steps < reference.train.steps + ld.train.steps


def _short(real: partial[Recipe], method: str, out: Path) -> Recipe:
    recipe = real(method, out)
    train = recipe.train.model_copy(update={"steps": 2, "eval_every": 2})
    model = recipe.model and recipe.model.model_copy(update={"n_blocks": 2, "width": 16, "ffn_width": 16, "heads": 2})
    data = recipe.data.model_copy(update={"workers": 0})
    return recipe.model_copy(update={"train": train, "model": model, "data": data})


def _weights(out: Path, method: str) -> bytes:
    return (out / method / "model" / "model.safetensors").read_bytes()
