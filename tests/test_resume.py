"""Going on after a kill as if nothing had happened, and the model that the checkpoints make."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from layerdial.config import OptimConfig
from layerdial.errors import UserError
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.report import read_rows
from layerdial.training import checkpoints, loop, scoring
from layerdial.training.loop import train
from layerdial.training.optim import make_optimizer
from tiny import RANDOM, equal, in_child, losses, tiny_network, tiny_recipe, weights


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_step(step: int) -> None:
    """From now on, this process kills itself in the middle of that step."""
    rate = loop.learning_rate

    def deadly(config: OptimConfig, now: int, steps: int) -> float:
        if now == step:
            kill()
        return rate(config, now, steps)

    loop.learning_rate = deadly  # type: ignore[assignment]


def kill_while_saving(step: int) -> None:
    """From now on, this process kills itself after the first file of that step's checkpoint."""
    save = checkpoints.save_tensors

    def deadly(file: Path, tensors: Any) -> None:
        save(file, tensors)
        if f"step-{step:08d}" in str(file):
            kill()

    checkpoints.save_tensors = deadly  # type: ignore[assignment]


@pytest.fixture(scope="module")
def uninterrupted(corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    train(tiny_recipe(run, corpus.train, corpus.dev, *RANDOM))
    return run


@pytest.mark.parametrize(
    ("workers", "arrange", "steps_kept"),
    [
        (0, lambda: kill_at_step(5), 3),
        (1, lambda: kill_at_step(7), 6),
        (0, lambda: kill_at_step(1), 0),
        (0, lambda: kill_while_saving(6), 3),
        (0, lambda: kill_while_saving(3), 0),
    ],
    ids=["in-a-step", "with-workers", "before-the-first-checkpoint", "while-saving", "while-saving-the-first"],
)
def test_resumed_equals_uninterrupted(
    corpus, uninterrupted: Path, tmp_path: Path, workers: int, arrange: Callable[[], None], steps_kept: int
) -> None:
    run = tmp_path / "run"
    recipe = tiny_recipe(run, corpus.train, corpus.dev, *RANDOM, f"data.workers={workers}")

    def killed_run() -> None:
        arrange()
        train(recipe)

    assert in_child(killed_run).code == -signal.SIGKILL
    assert not (run / "model").exists()
    latest = checkpoints.latest(run / "checkpoints")
    assert steps_kept == (checkpoints.load(latest, *fresh(latest)).step if latest else 0)
    logged_before = losses(run)
    assert max(logged_before) > steps_kept  # rows that the resumed run must drop and make again
    train(recipe, resume=True)
    rows = read_rows(run / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 10))
    assert [row["step"] for row in rows if "loss" not in row] == [3, 6, 9]
    assert losses(run) == losses(uninterrupted)
    assert equal(weights(run), weights(uninterrupted))
    assert not list((run / "checkpoints").glob(".*"))


def fresh(checkpoint: Path) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A network of the size of `tiny_recipe` and its optimizer, to load a checkpoint into."""
    network = ConformerCTC(tiny_network(n_blocks=3, width=32, ffn_width=64).config, 4)
    return network, make_optimizer(network, OptimConfig())


def test_a_finished_run_resumes_to_the_same_model(uninterrupted: Path, corpus) -> None:
    before, rows = weights(uninterrupted), losses(uninterrupted)
    train(tiny_recipe(uninterrupted, corpus.train, corpus.dev, *RANDOM), resume=True)
    assert equal(weights(uninterrupted), before) and losses(uninterrupted) == rows


def test_a_run_does_not_go_on_with_another_teacher_of_the_same_name(corpus, learnt: Path, tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    shutil.copytree(learnt, reference)
    changes = (f"reference={reference}", "model=null", "tokenizer=null", "train.steps=2", "train.eval_every=2")
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes, "objective.distil_weight=1")
    train(recipe)
    train(recipe, resume=True)
    tensors = load_file(reference / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, reference / "model.safetensors")
    with pytest.raises(UserError, match=r"weights of .*reference are not those that .*run was begun with"):
        train(recipe, resume=True)


def test_a_run_is_not_overwritten_nor_resumed_with_another_recipe(uninterrupted: Path, corpus) -> None:
    with pytest.raises(UserError, match="holds a run already; add --resume"):
        train(tiny_recipe(uninterrupted, corpus.train, corpus.dev, *RANDOM))
    for change, message in (
        ("optim.lr=0.5", r"optim\.lr 0\.003, the recipe now says 0\.5"),
        ("policy.name=prefix", "policy.name 'uniform_count', the recipe now says 'prefix'"),
        ("init=elsewhere", "init 'scratch', .* 'elsewhere'|elsewhere is not a model folder"),
    ):
        with pytest.raises(UserError, match=message):
            train(tiny_recipe(uninterrupted, corpus.train, corpus.dev, *RANDOM, change), resume=True)


@pytest.mark.parametrize(("score", "n_averaged"), [(0.0, 2), (9.9, 1)])
def test_the_model_is_the_mean_of_the_best_checkpoints_unless_the_best_alone_does_better_on_dev(
    corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: float, n_averaged: int
) -> None:
    monkeypatch.setattr(scoring, "dev_scores", lambda *parts: ({"dev_wer_at_3": score}, score))  # of the average
    changes = ("train.steps=6", "train.eval_every=2", "train.average_best=2")
    run = train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes)).parent
    averaged = json.loads((run / "model" / "meta.json").read_text())["averaged_steps"]
    assert len(averaged) == n_averaged
    kept = [load_file(run / "checkpoints" / f"step-{s:08d}" / "model.safetensors") for s in averaged]
    for name, tensor in weights(run).items():
        torch.testing.assert_close(tensor, sum(checkpoint[name] for checkpoint in kept) / n_averaged)
    assert len(list((run / "checkpoints").iterdir())) <= 3


def test_more_checkpoints_can_be_asked_for_than_were_kept(corpus, tmp_path: Path) -> None:
    changes = ("train.steps=6", "train.eval_every=2")
    train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes))
    train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes, "train.average_best=3"), resume=True)


def test_resuming_a_finished_run_keeps_its_ladder(corpus, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, "train.steps=2", "train.eval_every=2")
    model = train(recipe)
    (model / "ladder.json").write_text("{}")
    before = weights(model.parent)
    assert train(recipe, resume=True) == model
    assert (model / "ladder.json").is_file() and equal(before, weights(model.parent))
