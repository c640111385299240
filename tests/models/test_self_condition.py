"""Self-conditioning: every block that runs receives the posteriors of the stream so far, at every depth alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import Corpus
from layerdial.config.network import ConformerConfig
from layerdial.config.strict import parse
from layerdial.errors import UserError
from layerdial.models.checkpoint import load_network, save_model
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.models.cost import macs_per_second, parameter_count
from layerdial.models.prune import prune_model
from layerdial.subset import BlockSubset, SelectorDepth
from layerdial.text.tokenizer import build_tokenizer
from layerdial.training.loop import train
from tiny import VOCABULARY, losses, noise, tiny_config, tiny_network, tiny_recipe, weights

KEYS = pytest.mark.parametrize("key", ["1111", "0110", "1001", "1000"])


def network(**changes: Any) -> ConformerCTC:
    """A conditioned network whose feedback is large enough to matter."""
    made = tiny_network(self_condition=True, **changes)
    assert made.feedback is not None
    nn.init.normal_(made.feedback.weight, std=2.0)
    nn.init.normal_(made.feedback.bias, std=0.5)
    return made


@torch.no_grad()
@KEYS
@pytest.mark.parametrize("block_norm", [False, True], ids=["", "block_norm"])
def test_each_block_that_runs_hears_the_stream_and_what_the_head_makes_of_it(key: str, block_norm: bool) -> None:
    of, batch = network(block_norm=block_norm), noise([61, 40])
    entered: list[Tensor] = []
    left: list[Tensor] = []
    front: list[Tensor] = []
    for block in of.blocks:
        block.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        block.register_forward_hook(lambda _, inputs, out: left.append(out))
    of.front_end.register_forward_hook(lambda _, inputs, out: front.append(out))
    of(*batch, BlockSubset.from_key(key))
    assert len(entered) == key.count("1") and of.feedback is not None
    for before, found in zip([*front, *left], entered, strict=False):
        posteriors = torch.softmax(of.head(of.norm(before)), dim=-1)
        expected = before + posteriors @ of.feedback.weight.t() + of.feedback.bias
        torch.testing.assert_close(found, expected)
        assert (found - before).abs().max() > 0.1


@torch.no_grad()
@KEYS
def test_exit_n_is_the_pass_of_the_first_n_kept_blocks(key: str) -> None:
    of, batch, subset = network(), noise([61, 40]), BlockSubset.from_key(key)
    depths = range(1, subset.depth)
    last, _, early = of(*batch, subset, exits=depths)
    assert torch.equal(last, of(*batch, subset)[0])
    for depth, found in zip(depths, early, strict=True):
        assert torch.equal(found, of(*batch, BlockSubset(4, subset.kept[:depth]))[0])


@torch.no_grad()
@KEYS
def test_begun_from_a_network_without_it_is_that_network(key: str) -> None:
    plain, of, batch = tiny_network(), tiny_network(seed=1, self_condition=True), noise([61, 40])
    of.start_from(plain)
    assert torch.equal(of(*batch, BlockSubset.from_key(key))[0], plain(*batch, BlockSubset.from_key(key))[0])
    again = tiny_network(seed=2, self_condition=True)
    again.start_from(network())
    assert torch.equal(again(*batch, BlockSubset.from_key(key))[0], network()(*batch, BlockSubset.from_key(key))[0])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["input", "scores"])
def test_a_budget_of_all_blocks_is_the_full_network(kind: str) -> None:
    of, batch = network(selector=kind), noise([61, 40])
    torch.testing.assert_close(
        of(*batch, SelectorDepth(4, 4))[0], of(*batch, BlockSubset.full(4))[0], rtol=1e-4, atol=1e-5
    )


@KEYS
def test_it_costs_a_head_and_a_layer_a_block_that_runs(key: str) -> None:
    of, plain, subset = network(), tiny_network(), BlockSubset.from_key(key)
    both_ways = 2 * plain.config.width * VOCABULARY
    frames = 25
    difference = macs_per_second(of, subset, 2.0) - macs_per_second(plain, subset, 2.0)
    assert difference == subset.depth * both_ways * frames
    more = parameter_count(of, subset) - parameter_count(plain, subset)
    assert more == VOCABULARY * plain.config.width + plain.config.width


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 3, 4])
def test_stored_and_pruned_it_computes_the_same(tmp_path: Path, depth: int) -> None:
    of, batch = network(), noise([61, 40])
    save_model(tmp_path / "model", of, build_tokenizer("word", ["a b c d e f"]), {})
    stored, _ = load_network(tmp_path / "model")
    subset = prune_model(tmp_path / "model", tmp_path / "out", depth)
    pruned, _ = load_network(tmp_path / "out")
    expected = of(*batch, subset)[0]
    assert torch.equal(stored(*batch, subset)[0], expected)
    assert pruned.n_blocks == depth and torch.equal(pruned(*batch, BlockSubset.full(depth))[0], expected)


def test_heads_for_each_depth_are_refused_beside_it() -> None:
    with pytest.raises(UserError, match="self_condition feeds the posteriors of the one head back, but exit_heads"):
        parse(ConformerConfig, tiny_config().model_dump() | {"self_condition": True, "exit_heads": True}, "model")


@pytest.mark.medium
def test_training_with_exits_teaches_it(tmp_path: Path, corpus: Corpus) -> None:
    data = (corpus.train, corpus.dev)
    changes = ("model.self_condition=true", "policy.name=none", "objective.exits.at=all", "objective.exits.power=2")
    train(tiny_recipe(tmp_path / "still", *data, *changes, "train.steps=1", "optim.lr=1e-9"))
    train(tiny_recipe(tmp_path / "run", *data, *changes))
    change = weights(tmp_path / "run")["feedback.weight"] - weights(tmp_path / "still")["feedback.weight"]
    assert change.abs().max() > 1e-3
    found = losses(tmp_path / "run")
    assert found[max(found)][0] < 0.9 * found[min(found)][0]


def test_a_start_that_has_it_is_not_taken_without_it(tmp_path: Path, corpus: Corpus) -> None:
    data = (corpus.train, corpus.dev)
    changes = ("model.self_condition=true", "policy.name=none", "objective.exits.at=all", "train.steps=1")
    start = train(tiny_recipe(tmp_path / "start", *data, *changes))
    with pytest.raises(UserError, match="has self_condition, the recipe's model has not; set"):
        train(tiny_recipe(tmp_path / "run", *data, f"init={start}"))
    assert not (tmp_path / "run").exists()
