"""Two processes that train together on a CPU: they agree on everything, none waits for ever, and one writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from layerdial.modules.losses import LossTerms
from layerdial.subset import BlockSubset
from layerdial.training import run, update
from layerdial.training.loop import train
from layerdial.training.policies import make_policy
from layerdial.utils.rows import read_rows
from tiny import RANDOM, equal, losses, tiny_recipe, weights, write_recipe
from tiny_training import free_port, kill_at_step, on_two_ranks, told, train_and_tell

pytestmark = pytest.mark.medium  # each trains in two processes


@pytest.mark.parametrize(
    "changes",
    [
        ("policy.name=uniform_count",),
        ("policy.name=sandwich", "objective.in_place.weight=1", "objective.in_place.divergence=alpha"),
        ("policy.name=none", "model.exit_heads=true", "objective.exits.at=all"),
        # heads and scores that the pass which exchanges gradients does not use, and that differ from rank to rank
        ("policy={name: sandwich, subsets: chosen}", "model.selector=scores", "model.exit_heads=true"),
        pytest.param(("policy.name=none",), marks=pytest.mark.slow),
    ],
    ids=["uniform_count", "in-place", "exits", "chosen-blocks", "none"],
)
def test_two_ranks_draw_the_same_blocks_hear_other_speech_and_end_with_the_same_weights(
    corpus, tmp_path: Path, changes: tuple[str, ...]
) -> None:
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes, *RANDOM[:4], "train.steps=4")
    first, second = told(on_two_ranks(lambda rank: train_and_tell(recipe, rank)))
    assert first["processes"] == 2
    draws = [make_policy(recipe.policy, 3, recipe.train.seed)(step) for step in range(4)]
    drawn = [subset.key for subsets in draws for _ in range(recipe.train.accumulate) for subset in subsets]
    assert first["subsets"] == second["subsets"] == drawn
    heard = [{(epoch, i) for epoch, *ids in rank["ids"] for i in ids} for rank in (first, second)]
    assert heard[0] and not heard[0] & heard[1]
    assert first["weights"] == second["weights"]
    assert [row["step"] for row in read_rows(tmp_path / "run" / "metrics.jsonl") if "loss" in row] == [1, 2, 3, 4]


def test_a_block_that_no_rank_runs_does_not_stop_them(corpus, learnt: Path, tmp_path: Path) -> None:
    """Nor does momentum or weight decay move it, though the others exchange their gradients."""
    recipe = tiny_recipe(
        *(tmp_path / "run", corpus.train, corpus.dev, f"init={learnt}", "policy.name=prefix"),
        *("train.steps=3", "train.accumulate=2", "optim.weight_decay=0.5"),
    )

    def without_the_last_block(rank: int) -> None:
        run.make_drawing = lambda *_: lambda step: (BlockSubset.prefix(3, 1 + step % 2),)
        train_and_tell(recipe, rank)

    first, second = told(on_two_ranks(without_the_last_block))
    assert first["weights"] == second["weights"]
    before, after = weights(learnt.parent), weights(tmp_path / "run")
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith("encoder.blocks.2."), name


def test_two_ranks_go_on_after_a_kill_as_if_nothing_had_happened(corpus, tmp_path: Path) -> None:
    whole, killed = (
        tiny_recipe(tmp_path / name, corpus.train, corpus.dev, *RANDOM, "train.steps=6", "train.eval_every=2")
        for name in ("whole", "killed")
    )
    expected = told(on_two_ranks(lambda rank: train_and_tell(whole, rank)))

    def killed_run(rank: int) -> None:
        kill_at_step(3)
        train_and_tell(killed, rank)

    assert {ended.code for ended in on_two_ranks(killed_run)} == {-signal.SIGKILL}
    found = told(on_two_ranks(lambda rank: train_and_tell(killed, rank, resume=True)))
    assert [rank["weights"] for rank in found] == [rank["weights"] for rank in expected]
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert equal(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


def test_a_loss_that_is_not_finite_on_one_rank_stops_both_with_its_ids(corpus, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev)

    def broken_on_the_second(rank: int) -> None:
        terms_of = update.loss_terms

        def terms(student: torch.nn.Module, batch: Any, *rest: Any) -> Any:
            found = terms_of(student, batch, *rest)
            if rank == 0:
                return found
            print(", ".join(batch.ids))
            return LossTerms(found.total * float("inf"), found.ctc, found.distil)

        update.loss_terms = terms
        train(recipe)

    ended = on_two_ranks(broken_on_the_second)
    assert [e.code for e in ended] == [1, 1]
    for e in ended:
        assert f"the loss is not finite at step 0 (batch: {ended[1].out.strip()})" in e.err


def test_a_process_that_is_killed_is_named_by_the_other_in_one_line(corpus, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev)

    def killed_on_the_second(rank: int) -> None:
        if rank == 1:
            kill_at_step(2)
        train(recipe)

    first, second = on_two_ranks(killed_on_the_second)
    assert (first.code, second.code) == (1, -signal.SIGKILL)
    assert f"UserError: another process of the run in {tmp_path / 'run'} is gone (" in first.err
    assert "--resume" in first.err.splitlines()[-1]


# ------------------------------------------------------------------------------------------------ the launchers


def launched(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A launcher that is installed beside this python, on the CPU."""
    name, *rest = map(str, arguments)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    launcher = Path(sys.executable).with_name(name)
    return subprocess.run([launcher, *rest], capture_output=True, text=True, env=environment, timeout=600, check=False)


@pytest.mark.slow
def test_torchrun_trains_and_resumes(corpus, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", tmp_path / "run", corpus.train, corpus.dev)
    train_it = ["train", recipe, "--set", "train.steps=4", "--set", "train.eval_every=2"]
    launch = ["torchrun", "--nproc-per-node", 2, "--master-port", free_port(), "-m", "layerdial"]
    first = launched(*launch, *train_it)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("model: ") == 1  # one process speaks for both
    assert [row["step"] for row in read_rows(tmp_path / "run" / "metrics.jsonl") if "loss" in row] == [1, 2, 3, 4]
    again = launched(*launch, *train_it)
    assert again.returncode != 0 and "holds a run already; add --resume" in again.stderr
    resumed = launched(*launch, *train_it, "--resume")
    assert resumed.returncode == 0, resumed.stderr


@pytest.mark.slow
def test_accelerate_launch_trains(corpus, tmp_path: Path) -> None:
    """On a CPU it starts one process, however many are asked for."""
    recipe = write_recipe(tmp_path / "recipe.yaml", tmp_path / "run", corpus.train, corpus.dev)
    ended = launched(
        *("accelerate", "launch", "--cpu", "--num_processes", 2, "-m", "layerdial"),
        *("train", recipe, "--set", "train.steps=2"),
    )
    assert ended.returncode == 0 and "model: " in ended.stdout, ended.stderr
