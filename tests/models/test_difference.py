"""A student's difference, joined with its start, is the student; another start is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from layerdial.errors import UserError
from layerdial.ladder import Ladder, Rung
from layerdial.models.checkpoint import load_network
from layerdial.models.difference import join_difference, write_difference
from layerdial.subset import BlockSubset
from tiny import command
from tiny_whisper import N_BLOCKS, save_whisper


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("difference") / "start")


def rewritten(model: Path, out: Path, prefix: str, by: float) -> Path:
    """Copy a model folder, and move the weights whose names begin with `prefix`."""
    shutil.copytree(model, out)
    tensors = load_file(model / "model.safetensors")
    moved = {name: tensor + by * name.startswith(prefix) for name, tensor in tensors.items()}
    save_file(moved, out / "model.safetensors", metadata={"format": "pt"})
    return out


@pytest.fixture(scope="module")
def student(start: Path) -> Path:
    """The start with other encoder weights, for audio as long as it is, with a ladder."""
    folder = rewritten(start, start.parent / "student", "model.encoder.layers", 0.125)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"takes_any_length": True}))
    keys = [BlockSubset.prefix(N_BLOCKS, depth).key for depth in (N_BLOCKS - 1, N_BLOCKS)]
    rungs = tuple(Rung(key.count("1"), key, 0.0, 0.0, 0, 1) for key in keys)
    Ladder(N_BLOCKS, "loss", "dev", 1, rungs, rungs[0].depth).save(folder / "ladder.json")
    return folder


def test_start_and_difference_make_the_student(start: Path, student: Path, tmp_path: Path) -> None:
    done = command("difference", str(student), str(start), str(tmp_path / "part"))
    assert done.code == 0, done.err
    stored = load_file(tmp_path / "part" / "difference.safetensors")
    assert stored and all(name.split(".", 1)[1].startswith("model.encoder.layers") for name in stored)
    done = command("join", str(start), str(tmp_path / "part"), str(tmp_path / "joined"))
    assert done.code == 0, done.err
    (network, _), (wanted, _) = load_network(tmp_path / "joined"), load_network(student)
    assert not network.pads_input  # type: ignore[attr-defined]
    for name, tensor in network.state_dict().items():
        expected = wanted.state_dict()[name]
        torch.testing.assert_close(tensor, expected.half().float() if name in stored else expected, rtol=0, atol=0)
    ladder = Ladder.beside(tmp_path / "joined", N_BLOCKS)
    assert ladder is not None and ladder.shallowest == N_BLOCKS - 1


def test_a_start_in_half_precision_is_the_same_start(start: Path, student: Path, tmp_path: Path) -> None:
    write_difference(student, start, tmp_path / "part")
    half = tmp_path / "half"
    shutil.copytree(start, half)
    tensors = load_file(start / "model.safetensors")
    halved = {name: tensor.half() for name, tensor in tensors.items()}
    save_file(halved, half / "model.safetensors", metadata={"format": "pt"})
    assert join_difference(half, tmp_path / "part", tmp_path / "joined").n_blocks == N_BLOCKS


def test_what_does_not_belong_together_is_one_line(start: Path, student: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    write_difference(student, start, part)
    other = rewritten(start, tmp_path / "other", "model.decoder", 0.125)
    wider = save_whisper(tmp_path / "wider", decoder_layers=3)
    for call, message in (
        (lambda out: join_difference(other, part, out), "is not what .*part changes .*give start, as published"),
        (lambda out: join_difference(wider, part, out), "is not what .*part changes"),
        (lambda out: join_difference(start, start, out), r"has no difference\.json"),
        (lambda out: join_difference(start, part, start), "exists already"),
        (lambda out: write_difference(student, start, part), "exists already"),
        (lambda out: write_difference(start, start, out), "has the weights of"),
        (lambda out: write_difference(wider, start, out), "is of another network than"),
        (
            lambda out: write_difference(rewritten(start, tmp_path / "all", "", 0.125), start, out),
            "no weight in common",
        ),
    ):
        with pytest.raises(UserError, match=message) as problem:
            call(tmp_path / "out")
        assert "\n" not in str(problem.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ['{"format": 2}', '{"format": 1, "unchanged": 3}', '{"format": 1, "unchanged": {}}'])
def test_a_damaged_description_is_one_line(start: Path, student: Path, tmp_path: Path, text: str) -> None:
    write_difference(student, start, tmp_path / "part")
    (tmp_path / "part" / "difference.json").write_text(text)
    with pytest.raises(UserError, match=r"difference\.json is (damaged|of a format)"):
        join_difference(start, tmp_path / "part", tmp_path / "joined")
