"""Drop policies: which blocks run at a training step.

A policy is a pure function of (seed, step): every rank of a distributed run draws the same subset without a
message, and a resumed run repeats itself. Every draw keeps at least one block. Each policy returns the subsets of
one step, one for all but the sandwich, whose last is the full one (so that under data parallelism the backward
pass that synchronises gradients reaches every block).
"""

from __future__ import annotations

import random
from collections.abc import Callable

from layerdial.config import PolicyConfig
from layerdial.subset import BlockSubset

Policy = Callable[[int], tuple[BlockSubset, ...]]


def make_policy(config: PolicyConfig, n_blocks: int, seed: int) -> Policy:
    """step -> the subsets to train at that step."""
    draw = _DRAWS[config.name]

    def policy(step: int) -> tuple[BlockSubset, ...]:
        return draw(random.Random(f"policy/{config.name}/{seed}/{step}"), n_blocks, config.keep_prob or 1.0)

    return policy


def _none(rng: random.Random, n_blocks: int, keep_prob: float) -> tuple[BlockSubset, ...]:
    return (BlockSubset.full(n_blocks),)


def _bernoulli(rng: random.Random, n_blocks: int, keep_prob: float) -> tuple[BlockSubset, ...]:
    """Each block runs with `keep_prob`, independently (LDASR, LayerDrop); an empty draw is drawn again."""
    return (_gated(rng, [keep_prob] * n_blocks),)


def _stochastic_depth(rng: random.Random, n_blocks: int, keep_prob: float) -> tuple[BlockSubset, ...]:
    """Keep probability falls linearly from 1 before the first block to `keep_prob` at the last (Huang 2016)."""
    return (_gated(rng, [1.0 - (i + 1) / n_blocks * (1.0 - keep_prob) for i in range(n_blocks)]),)


def _uniform_count(rng: random.Random, n_blocks: int, keep_prob: float) -> tuple[BlockSubset, ...]:
    """A depth from 1 to N with equal chances, then that many blocks, every choice equally likely (DLD)."""
    return (_random_subset(rng, n_blocks),)


def _prefix(rng: random.Random, n_blocks: int, keep_prob: float) -> tuple[BlockSubset, ...]:
    """The first n blocks, n from 1 to N with equal chances: as early exits are trained."""
    return (BlockSubset.prefix(n_blocks, rng.randint(1, n_blocks)),)


def _sandwich(rng: random.Random, n_blocks: int, keep_prob: float) -> tuple[BlockSubset, ...]:
    """The smallest (one block, any), a random one and the full one in one step (Yu & Huang 2019, TODM)."""
    smallest = BlockSubset(n_blocks, (rng.randrange(n_blocks),))
    return (smallest, _random_subset(rng, n_blocks), BlockSubset.full(n_blocks))


def _gated(rng: random.Random, keep_probs: list[float]) -> BlockSubset:
    while True:
        kept = tuple(i for i, p in enumerate(keep_probs) if rng.random() < p)
        if kept:
            return BlockSubset(len(keep_probs), kept)


def _random_subset(rng: random.Random, n_blocks: int) -> BlockSubset:
    return BlockSubset(n_blocks, tuple(sorted(rng.sample(range(n_blocks), rng.randint(1, n_blocks)))))


_DRAWS: dict[str, Callable[[random.Random, int, float], tuple[BlockSubset, ...]]] = {
    "none": _none,
    "bernoulli": _bernoulli,
    "stochastic_depth": _stochastic_depth,
    "uniform_count": _uniform_count,
    "prefix": _prefix,
    "sandwich": _sandwich,
}
