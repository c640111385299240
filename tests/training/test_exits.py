"""Exits: outputs within a pass are those of the shallower passes, and are trained, stored and counted as such."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from layerdial.config.objective import ExitsConfig, ObjectiveConfig
from layerdial.errors import UserError
from layerdial.models.checkpoint import load_network, save_model
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.models.cost import macs_per_second, parameter_count
from layerdial.models.prune import prune_model
from layerdial.modules.losses import LossTerms, distillation
from layerdial.subset import BlockSubset
from layerdial.text.tokenizer import build_tokenizer
from layerdial.training.loop import train
from layerdial.training.objective import Teachers, loss_terms
from tiny import VOCABULARY, losses, noise, tiny_network, tiny_recipe, weights
from tiny_training import spoken

FULL = BlockSubset.full(4)
HEADS = pytest.mark.parametrize("exit_heads", [False, True], ids=["shared-head", "own-heads"])
NORMS = pytest.mark.parametrize("block_norm", [False, True], ids=["", "block_norm"])


def terms(network: ConformerCTC, subset: BlockSubset, teachers: Teachers | None = None, **objective: Any) -> LossTerms:
    return loss_terms(
        network, *spoken(network), subset, teachers or Teachers(), ObjectiveConfig.model_validate(objective)
    )


def gradients(network: ConformerCTC, total: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    total.backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


# ------------------------------------------------------------------------------------------------------- the network


@torch.no_grad()
@NORMS
@HEADS
@pytest.mark.parametrize("key", ["1111", "1101", "0110"])
def test_exit_n_is_the_pass_of_the_first_n_kept_blocks(key: str, exit_heads: bool, block_norm: bool) -> None:
    network, batch = tiny_network(exit_heads=exit_heads, block_norm=block_norm), noise([61, 40])
    subset = BlockSubset.from_key(key)
    depths = range(1, subset.depth)
    last, _, early = network(*batch, subset, exits=depths)
    assert torch.equal(last, network(*batch, subset)[0])
    for depth, found in zip(depths, early, strict=True):
        assert torch.equal(found, network(*batch, BlockSubset(4, subset.kept[:depth]))[0])


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_depth_trains_its_own_head_and_no_other(depth: int) -> None:
    network = tiny_network(exit_heads=True)
    network(*noise([61]), BlockSubset.prefix(4, depth))[0].square().sum().backward()
    trained = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    heads = {name.rpartition(".")[0] for name in trained if name.startswith(("norm.", "head.", "exit_heads."))}
    assert heads == ({"norm", "head"} if depth == 4 else {f"exit_heads.{depth - 1}.{i}" for i in (0, 1)})


@torch.no_grad()
@NORMS
def test_own_heads_begin_as_the_one_head_of_the_network_that_they_start_from(block_norm: bool) -> None:
    plain, batch = tiny_network(block_norm=block_norm), noise([61, 40])
    network = tiny_network(seed=1, block_norm=block_norm, exit_heads=True)
    network.start_from(plain)
    for subset in (BlockSubset.prefix(4, 1), BlockSubset.from_key("0101"), FULL):
        assert torch.equal(network(*batch, subset)[0], plain(*batch, subset)[0])
    again = tiny_network(seed=2, block_norm=block_norm, exit_heads=True)
    again.start_from(network)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in network.state_dict().items())
    plain_again = tiny_network(seed=3, block_norm=block_norm)
    plain_again.start_from(network)
    assert torch.equal(plain_again(*batch, FULL)[0], plain(*batch, FULL)[0])


@NORMS
def test_a_depth_costs_its_own_head_once_and_no_other(block_norm: bool) -> None:
    plain = tiny_network(block_norm=block_norm)
    network = tiny_network(block_norm=block_norm, exit_heads=True)
    for depth in (1, 3, 4):
        subset = BlockSubset.prefix(4, depth)
        assert parameter_count(network, subset) == parameter_count(plain, subset)
        assert macs_per_second(network, subset, 2.0) == macs_per_second(plain, subset, 2.0)


# ----------------------------------------------------------------------------------------------------- the objective


@HEADS
@pytest.mark.parametrize(("key", "power"), [("1111", 0.0), ("1111", 2.0), ("1011", 0.5)])
def test_one_pass_with_exits_has_the_gradient_of_the_weighted_mean_of_all_its_passes(
    key: str, power: float, exit_heads: bool
) -> None:
    """After n of N blocks the weight is (N/n)^power, for exits times theirs."""
    network, subset = tiny_network(exit_heads=exit_heads).train(), BlockSubset.from_key(key)
    reference_BTV = tiny_network(seed=5)(*noise([61, 40]), FULL)[0].detach()
    teachers, objective = Teachers(reference_BTV), {"distil": {"weight": 0.7}}
    shorter = [BlockSubset(4, subset.kept[:depth]) for depth in range(1, subset.depth)]
    alone = [terms(network, passed, teachers, **objective).total for passed in shorter]
    own = terms(network, subset, teachers, **objective)
    each = [0.3 * (4 / depth) ** power for depth in range(1, subset.depth)]
    last = (4 / subset.depth) ** power
    expected = last * own.total + sum(weight * total for weight, total in zip(each, alone, strict=True))
    expected = expected / (last + sum(each))
    found = terms(network, subset, teachers, **objective, exits={"weight": 0.3, "power": power})
    torch.testing.assert_close(found.total, expected)
    assert torch.equal(found.ctc, own.ctc) and torch.equal(found.distil, own.distil)
    ours, theirs = gradients(network, found.total), gradients(network, expected)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6, msg=name)


def test_exits_learn_from_the_last_output_which_learns_nothing_from_them() -> None:
    network = tiny_network(exit_heads=True)
    batch, subset = noise([61, 40]), BlockSubset.full(4)
    frames = network.features.frames(batch[1])
    last, _, (first, second, third) = network(*batch, subset, exits=(1, 2, 3))
    kl = sum(distillation(last.detach(), early, frames) for early in (first, second, third))
    with_kl = terms(network, subset, exits={"weight": 0.5, "distil_weight": 2.0}).total
    without = terms(network, subset, exits={"weight": 0.5}).total
    torch.testing.assert_close(with_kl - without, 0.5 * 2.0 * kl / (1 + 3 * 0.5))
    found = gradients(network, with_kl - without)
    assert not found["head.weight"].any() and not found["encoder.blocks.3.ff_in.expand.weight"].any()
    assert all(found[f"exit_heads.{i}.1.weight"].any() for i in range(3))


def test_the_middle_exit_is_after_half_of_the_blocks_that_run() -> None:
    middle = ExitsConfig(at="middle")
    assert [ObjectiveConfig(exits=middle).exits_at(depth) for depth in (1, 2, 3, 4, 7)] == [(), (1,), (1,), (2,), (3,)]
    network = tiny_network()
    both = [terms(network, BlockSubset.from_key(key)).total for key in ("1011", "1000")]
    torch.testing.assert_close(terms(network, BlockSubset.from_key("1011"), exits=middle).total, sum(both) / 2)
    only = terms(network, BlockSubset.from_key("0100"), exits=middle).total
    assert torch.equal(only, terms(network, BlockSubset.from_key("0100")).total)


# ------------------------------------------------------------------------------------------------- training, folders


def test_early_exits_with_own_heads_train_from_a_plain_model_and_are_measured_as_prefixes(
    corpus, learnt: Path, tmp_path: Path
) -> None:
    model = json.loads((learnt / "config.json").read_text())["model"]
    changes = (f"init={learnt}", f"model={model | {'exit_heads': True}}", "policy.name=none")
    recipe = tiny_recipe(
        tmp_path / "run", corpus.train, corpus.dev, *changes, "objective.exits.at=all", "train.steps=2"
    )
    train(recipe)
    assert [row[5] for row in losses(tmp_path / "run").values()] == [3, 3]  # one pass a step
    before, after = weights(learnt.parent), weights(tmp_path / "run")
    for i in range(2):
        assert not torch.equal(after[f"exit_heads.{i}.1.weight"], before["head.weight"])
    dev = json.loads((tmp_path / "run" / "dev.json").read_text())
    assert set(dev) == {f"dev_{unit}_at_{depth}" for unit in ("wer", "cer") for depth in (1, 3)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("model.block_norm=true", "model.skip=norm"), "objective.exits leaves out the norms .* set model.skip"),
        (("model.selector=input", "policy.subsets=chosen"), "objective.exits is for subsets that are known"),
    ],
)
def test_exits_that_would_not_be_what_runs_are_refused(
    corpus, tmp_path: Path, changes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message) as problem:
        train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, "objective.exits.at=all", *changes))
    assert "\n" not in str(problem.value) and not (tmp_path / "run").exists()


def stored(folder: Path, **changes: Any) -> ConformerCTC:
    network = tiny_network(**changes)
    save_model(folder, network, build_tokenizer("word", ["a b c d e f"]), {})
    assert VOCABULARY == 7
    return network


@torch.no_grad()
@NORMS
@pytest.mark.parametrize("depth", [1, 3, 4])
def test_pruned_at_a_depth_it_is_a_plain_model_with_the_head_of_that_depth(
    tmp_path: Path, depth: int, block_norm: bool
) -> None:
    changes = {"exit_heads": True, "selector": "input", "block_norm": block_norm}
    network = stored(tmp_path / "model", **changes)
    subset = prune_model(tmp_path / "model", tmp_path / "out", depth)
    pruned, _ = load_network(tmp_path / "out")
    assert isinstance(pruned, ConformerCTC)
    assert (pruned.n_blocks, pruned.config.exit_heads, pruned.selector) == (depth, False, None)
    batch = noise([61, 40])
    assert torch.equal(pruned(*batch, BlockSubset.full(depth))[0], network(*batch, subset)[0])
