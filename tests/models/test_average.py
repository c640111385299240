"""The average of models is their mean, tensor by tensor, and models that cannot be averaged are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from layerdial.errors import UserError
from layerdial.ladder import Ladder, Rung
from layerdial.models.average import average_models
from layerdial.models.checkpoint import load_network
from tiny import command
from tiny_hf import save_tiny
from tiny_whisper import save_whisper


def moved(model: Path, out: Path, by: float) -> Path:
    """Copy a model folder, and move every weight."""
    shutil.copytree(model, out)
    tensors = {name: tensor + by for name, tensor in load_file(model / "model.safetensors").items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def write_ladder(folder: Path, *keys: str) -> None:
    rungs = tuple(Rung(depth, key, 0.0, 0.0, 0, 1) for depth, key in enumerate(keys, 1))
    Ladder(len(keys), "loss", "dev", 1, rungs).save(folder / "ladder.json")


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("average") / "whisper")


def test_the_average_of_a_model_and_its_moved_copies_lies_between(whisper: Path, tmp_path: Path) -> None:
    models = [whisper, moved(whisper, tmp_path / "a", 0.3), moved(whisper, tmp_path / "b", 0.6)]
    done = command("average", *map(str, models), "--out", str(tmp_path / "mean"))
    assert done.code == 0, done.err
    network, _ = load_network(tmp_path / "mean")
    wanted, _ = load_network(models[1])
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, wanted.state_dict()[name], rtol=0, atol=1e-5)
    assert json.loads((tmp_path / "mean" / "meta.json").read_text())["average_of"] == [str(model) for model in models]


def test_a_shared_ladder_goes_along_and_another_is_refused(whisper: Path, tmp_path: Path) -> None:
    a, b = moved(whisper, tmp_path / "a", 0.0), moved(whisper, tmp_path / "b", 0.1)
    blocks = load_network(a)[0].n_blocks
    keys = ["1" * depth + "0" * (blocks - depth) for depth in range(1, blocks + 1)]
    write_ladder(a, *keys)
    with pytest.raises(UserError, match="run other blocks at the same depth"):
        average_models([a, b], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
    write_ladder(b, *keys)
    average_models([a, b], tmp_path / "mean")
    assert Ladder.beside(tmp_path / "mean", blocks) == Ladder.beside(a, blocks)


def test_what_cannot_be_averaged_is_one_line(whisper: Path, tmp_path: Path) -> None:
    wavlm = save_tiny(tmp_path / "wavlm", "wavlm-large")
    for models, out, message in (
        ([whisper, wavlm], tmp_path / "mean", "is no average partner of"),
        ([whisper], tmp_path / "mean", "two models or more, found 1"),
        ([whisper, whisper], wavlm, "exists already; choose another folder"),
    ):
        with pytest.raises(UserError, match=message) as problem:
            average_models(models, out)
        assert "\n" not in str(problem.value)
