"""Counted costs equal those counted by hand; a skipped block costs nothing; measuring leaves no trace."""

from __future__ import annotations

import time
from typing import Literal

import pytest
import torch

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
from layerdial.utils.timing import measure_in_turns, measure_latency

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


def test_latency_is_a_median_after_warm_up() -> None:
    calls: list[float] = [0.05, 0.05, 0.002, 0.05, 0.002]
    waits = iter(calls)
    assert 2 <= measure_latency(lambda: time.sleep(next(waits)), warmup=2, repeats=3) < 20
    assert next(waits, None) is None


def test_runs_take_turns() -> None:
    order: list[str] = []
    measure_in_turns([lambda: order.append("a"), lambda: order.append("b")], warmup=1, repeats=2)
    assert order == ["a", "b"] * 3


def test_a_quarter_of_the_blocks_is_faster_than_all() -> None:
    torch.manual_seed(0)
    network = ConformerCTC(ConformerConfig.model_validate({"size": "xs"}), VOCABULARY)
    runs = [forward_pass(network, BlockSubset.prefix(8, depth), *network.example_inputs(5)) for depth in (2, 8)]
    shallow, deep = measure_in_turns(runs, warmup=1, repeats=3)
    assert shallow < 0.75 * deep
