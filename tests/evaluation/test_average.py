"""The average of models is their mean, tensor by tensor, and models that cannot be averaged are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from layerdial.errors import UserError
from layerdial.evaluation.average import average_models
from layerdial.ladder import Ladder, Rung
from layerdial.models.checkpoint import load_network
from layerdial.subset import BlockSubset
from tiny import command
from tiny_hf import save_tiny
from tiny_whisper import N_BLOCKS, save_whisper, write_spoken


def moved(model: Path, out: Path, by: float) -> Path:
    """Copy a model folder, and move every weight."""
    shutil.copytree(model, out)
    tensors = {name: tensor + by for name, tensor in load_file(model / "model.safetensors").items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def write_ladder(folder: Path, *keys: str) -> None:
    rungs = tuple(Rung(key.count("1"), key, 0.0, 0.0, 0, 1) for key in keys)
    Ladder(N_BLOCKS, "loss", "dev", 1, rungs, rungs[0].depth).save(folder / "ladder.json")


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


def test_the_depths_of_all_ladders_are_measured_and_other_blocks_refused(whisper: Path, tmp_path: Path) -> None:
    cuts = write_spoken(tmp_path / "dev.cuts.jsonl.gz", 2)
    a, b = moved(whisper, tmp_path / "a", 0.0), moved(whisper, tmp_path / "b", 0.01)
    prefixes = [BlockSubset.prefix(N_BLOCKS, depth).key for depth in range(1, N_BLOCKS + 1)]
    write_ladder(a, *prefixes)
    with pytest.raises(UserError, match=r"has a ladder\.json and .* has none"):
        average_models([a, b], tmp_path / "mean", cuts)
    write_ladder(b, *prefixes[1:])
    with pytest.raises(UserError, match="give --cuts DEV_CUTS"):
        average_models([a, b], tmp_path / "mean")
    average_models([a, b], tmp_path / "mean", cuts)
    ladder = Ladder.beside(tmp_path / "mean", N_BLOCKS)
    assert ladder is not None and [rung.subset for rung in ladder.rungs] == prefixes[1:]
    assert ladder.rungs[0].words == 4 and ladder.rungs[0].errors > 0
    write_ladder(b, "0" * (N_BLOCKS - 1) + "1", *prefixes[1:])
    with pytest.raises(UserError, match=f"at depth 1 .*a runs {prefixes[0]}, .*b 0+1"):
        average_models([a, b], tmp_path / "other", cuts)
    assert not (tmp_path / "other").exists()


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
