"""Drop policies: which blocks run at a training step.

A policy is a pure function of (seed, step): every rank of a distributed run draws the same subset without a
message, and a resumed run repeats itself. Every draw keeps at least one block. Each policy returns the subsets of
one step, one for all but the sandwich, whose last is the full one (so that under data parallelism the backward
pass that synchronises gradients reaches every block).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from layerdial.config.recipe import PolicyConfig, Recipe
from layerdial.ladder import Ladder, select
from layerdial.subset import Blocks, BlockSubset

Policy = Callable[[int], tuple[Blocks, ...]]
Draw = Callable[["_DrawContext"], tuple[Blocks, ...]]


def make_policy(config: PolicyConfig, n_blocks: int, seed: int, ladder: Ladder | None = None) -> Policy:
    """step -> the subsets to train at that step. `ladder` is what `subsets: ladder` takes them from."""
    draw = _DRAWS[config.name]

    def policy(step: int) -> tuple[Blocks, ...]:
        rng = random.Random(f"policy/{config.name}/{seed}/{step}")
        return draw(_DrawContext(rng, config, n_blocks, ladder))

    return policy


def trained_rule(recipe: Recipe) -> str:
    """By which rule of `select` each depth's blocks were chosen in training, or random; so too where none drops."""
    exits = recipe.objective.exits
    early_exit = exits is not None and exits.at == "all" and recipe.policy.name == "none"
    if early_exit or recipe.policy.name == "prefix":
        return "prefix"
    return recipe.policy.subsets or "random"


def evaluated_subset(recipe: Recipe, n_blocks: int, depth: int, ladder: Ladder | None = None) -> Blocks:
    """What runs at `depth` when a network trained by this recipe is measured on dev."""
    rule = trained_rule(recipe)
    return select("even" if rule == "random" else rule, n_blocks, depth, ladder)


@dataclass(frozen=True)
class _DrawContext:
    """Hold what a draw may use: its generator, the settings, the ladder that `subsets: ladder` takes blocks from."""

    rng: random.Random
    config: PolicyConfig
    n_blocks: int
    ladder: Ladder | None

    @property
    def keep_prob(self) -> float:
        return self.config.keep_prob or 1.0

    def of_depth(self, depth: int) -> Blocks:
        """The blocks of a depth by the rule `subsets`."""
        return select(self.config.subsets or "random", self.n_blocks, depth, self.ladder, self.rng)

    def depth(self) -> int:
        """Draw a depth from 1 to N with equal chances."""
        return self.rng.randint(1, self.n_blocks)


def _none(draw: _DrawContext) -> tuple[Blocks, ...]:
    return (BlockSubset.full(draw.n_blocks),)


def _bernoulli(draw: _DrawContext) -> tuple[Blocks, ...]:
    """Each block runs with `keep_prob`, independently (LDASR, LayerDrop); an empty draw is drawn again."""
    return (_gated(draw.rng, [draw.keep_prob] * draw.n_blocks),)


def _stochastic_depth(draw: _DrawContext) -> tuple[Blocks, ...]:
    """Keep probability falls linearly from 1 before the first block to `keep_prob` at the last (Huang 2016)."""
    n_blocks = draw.n_blocks
    return (_gated(draw.rng, [1.0 - (i + 1) / n_blocks * (1.0 - draw.keep_prob) for i in range(n_blocks)]),)


def _uniform_count(draw: _DrawContext) -> tuple[Blocks, ...]:
    """A depth from 1 to N with equal chances, then that many blocks, by default every choice equally likely (DLD)."""
    return (draw.of_depth(draw.depth()),)


def _prefix(draw: _DrawContext) -> tuple[Blocks, ...]:
    """The first n blocks, n from 1 to N with equal chances: one early exit a step."""
    return (BlockSubset.prefix(draw.n_blocks, draw.rng.randint(1, draw.n_blocks)),)


def _sandwich(draw: _DrawContext) -> tuple[Blocks, ...]:
    """The smallest (one block), a random one and the full one in one step (Yu & Huang 2019, TODM)."""
    smallest = draw.of_depth(1)
    return (smallest, draw.of_depth(draw.depth()), BlockSubset.full(draw.n_blocks))


def _gated(rng: random.Random, keep_probs: list[float]) -> BlockSubset:
    while True:
        kept = tuple(i for i, p in enumerate(keep_probs) if rng.random() < p)
        if kept:
            return BlockSubset(len(keep_probs), kept)


_DRAWS: dict[str, Draw] = {
    "none": _none,
    "bernoulli": _bernoulli,
    "stochastic_depth": _stochastic_depth,
    "uniform_count": _uniform_count,
    "prefix": _prefix,
    "sandwich": _sandwich,
}
