"""Counted costs equal those counted by hand; a skipped block costs nothing; measuring leaves no trace."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from layerdial.config.network import ConformerConfig
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.models.cost import (
    Cost,
    forward_pass,
    macs_per_second,
    parameter_count,
    subset_cost,
)
from layerdial.subset import BlockSubset

MELS, WIDTH, HEADS, FFN, KERNEL, BLOCKS, VOCABULARY = 80, 16, 2, 24, 5, 4, 11


def tiny(skip: Literal["identity", "norm"] = "identity") -> ConformerCTC:
    torch.manual_seed(0)
    numbers = {"n_blocks": BLOCKS, "width": WIDTH, "heads": HEADS, "ffn_width": FFN, "kernel": KERNEL}
    numbers |= {"skip": skip, "block_norm": True}
    return ConformerCTC(ConformerConfig.model_validate(numbers), VOCABULARY)


def macs_by_hand(depth: int, seconds: int) -> float:
    half, frames = 50 * seconds, 25 * seconds
    front_end = half * MELS * WIDTH * 3 + frames * WIDTH * WIDTH * 3
    feed_forward = 2 * frames * WIDTH * FFN
    attention = frames * WIDTH * 3 * WIDTH + 2 * frames * frames * WIDTH + frames * WIDTH * WIDTH
    convolution = frames * WIDTH * 2 * WIDTH + frames * WIDTH * KERNEL + frames * WIDTH * WIDTH
    head = frames * WIDTH * VOCABULARY
    return (front_end + depth * (2 * feed_forward + attention + convolution) + head) / seconds


def parameters_by_hand(depth: int) -> int:
    front_end = MELS * WIDTH * 3 + WIDTH + WIDTH * WIDTH * 3 + WIDTH + 2 * WIDTH
    feed_forward = 2 * WIDTH + WIDTH * FFN + FFN + FFN * WIDTH + WIDTH
    attention = 2 * WIDTH + WIDTH * 3 * WIDTH + 3 * WIDTH + WIDTH * WIDTH + WIDTH
    convolution = 2 * WIDTH + (WIDTH * 2 * WIDTH + 2 * WIDTH) + (WIDTH * KERNEL + WIDTH) + 2 * WIDTH
    convolution += WIDTH * WIDTH + WIDTH
    block = 2 * feed_forward + attention + convolution + 2 * WIDTH
    return front_end + depth * block + WIDTH * VOCABULARY + VOCABULARY


@pytest.mark.parametrize("key", ["1000", "0001", "0110", "1111"])
def test_costs_equal_those_counted_by_hand(key: str) -> None:
    subset = BlockSubset.from_key(key)
    expected = Cost(parameters_by_hand(subset.depth), macs_by_hand(subset.depth, seconds=10))
    assert subset_cost(tiny(), subset) == expected


def test_attention_makes_a_second_of_long_audio_dearer() -> None:
    network, subset = tiny(), BlockSubset.full(BLOCKS)
    assert macs_per_second(network, subset, seconds=2) == macs_by_hand(BLOCKS, seconds=2)
    assert macs_per_second(network, subset, seconds=30) == macs_by_hand(BLOCKS, seconds=30)
    assert macs_by_hand(BLOCKS, seconds=30) > macs_by_hand(BLOCKS, seconds=2)


def test_the_whole_network_counts_every_parameter() -> None:
    network = tiny()
    assert parameter_count(network, BlockSubset.full(BLOCKS)) == sum(p.numel() for p in network.parameters())


def test_kept_norms_of_skipped_blocks_count() -> None:
    network = tiny(skip="norm")
    norms = 2 * 2 * WIDTH
    assert parameter_count(network, BlockSubset.from_key("1010")) == parameters_by_hand(2) + norms
    assert macs_per_second(network, BlockSubset.from_key("1010")) == macs_by_hand(2, seconds=10)


def test_shared_parameters_count_once() -> None:
    network = tiny()
    network.encoder.blocks[1] = network.encoder.blocks[0]
    assert parameter_count(network, BlockSubset.from_key("1100")) == parameters_by_hand(1)


def test_measuring_leaves_mode_hooks_and_gradients_alone() -> None:
    network = tiny().train()
    network.head.eval()
    modes = [module.training for module in network.modules()]
    generator = torch.get_rng_state()
    subset_cost(network, BlockSubset.from_key("1001"))
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


class CountedOperators(TorchDispatchMode):
    """How many operators run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def test_each_dropped_block_takes_all_its_operators_with_it() -> None:
    counts = []
    for depth in range(1, BLOCKS + 1):
        network = tiny()
        run = forward_pass(network, BlockSubset.prefix(BLOCKS, depth), *network.example_inputs(1.0))
        with CountedOperators() as operators:
            run()
        counts.append(operators.count)
    of_a_block = counts[1] - counts[0]
    assert of_a_block > 20
    assert counts == [counts[0] + i * of_a_block for i in range(BLOCKS)]
