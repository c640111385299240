"""Drop policies: which blocks run at a training step, and which run at a depth afterwards.

A policy is a class of settings with two methods. What it draws is a pure function of its settings and of the step, the
stack of blocks and the generator that it is given: every rank of a distributed run draws the same without a message,
and a resumed run repeats itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from random import Random
from typing import Annotated, ClassVar, Literal

from pydantic import Field, SerializeAsAny

from layerdial.config.registry import Registry
from layerdial.config.strict import Strict
from layerdial.ladder import Ladder, select
from layerdial.subset import Blocks, BlockSubset, check_depth

Rule = Literal["random", "prefix", "even", "ladder", "chosen"]


@dataclass(frozen=True)
class Stack:
    """The blocks to draw from: how many there are, and the ladder of the model that the run starts from, if asked."""

    n_blocks: int
    ladder: Ladder | None = None

    def draw_depth(self, rng: Random, least: int = 1) -> int:
        """Draw a depth from `least` to N with equal chances."""
        return rng.randint(least, self.n_blocks)


@dataclass(frozen=True)
class Searched:
    """What a policy says of a depth at which it trains several subsets: `layerdial search` finds the one that runs.

    Until then `subset` is measured on dev; it should be one that training draws.
    """

    subset: BlockSubset


class Policy(Strict, ABC):
    """How the blocks of a step are drawn. Its fields are its settings in a recipe, beside `name`.

    `drops` is false for a policy that never leaves a block out. `last_is_full` says that the last subset of every step
    is all blocks, which spares distributed training a search for blocks without gradient.
    """

    name: str
    drops: ClassVar[bool] = True
    last_is_full: ClassVar[bool] = False

    @abstractmethod
    def draw(self, step: int, stack: Stack, rng: Random) -> tuple[Blocks, ...]:
        """Return the subsets of one step, each of which makes a pass over the batch. `step` counts from 0.

        All random numbers come from `rng`, which is made anew for each step from the run's seed.
        """

    @abstractmethod
    def subset_at(self, depth: int, stack: Stack) -> Blocks | Searched:
        """Return what runs at `depth` in a network that this policy trained.

        A subset is measured on dev and put into the model's ladder: the one of this depth that was trained. `Searched`
        leaves the ladder to `layerdial search`.
        """

    def shallowest(self) -> int:
        """Return the fewest blocks that it trains; the model's ladder begins there."""
        return 1

    def needs(self) -> Literal["ladder", "selector"] | None:
        """Return what it cannot do without: the ladder of the model that the run starts from, or a selector."""
        return None

    def needing(self) -> str:
        """Return how messages say that it needs this."""
        return f"policy {self.name} needs a {self.needs()}"


POLICIES = Registry("policy", "layerdial.policies", Policy)  # type: ignore[type-abstract]
register_policy = POLICIES.register
AnyPolicy = Annotated[SerializeAsAny[Policy], POLICIES]


def even_until_searched(depth: int, stack: Stack) -> Searched:
    """Return evenly spaced blocks, for policies that draw every subset of a depth alike."""
    return Searched(BlockSubset.even(stack.n_blocks, depth))


# ----------------------------------------------------------------------------------------------------------- built in


@register_policy("none")
class NoDropping(Policy):
    """All blocks in every step."""

    drops = False
    last_is_full = True

    def draw(self, step: int, stack: Stack, rng: Random) -> tuple[Blocks, ...]:
        return (BlockSubset.full(stack.n_blocks),)

    def subset_at(self, depth: int, stack: Stack) -> Blocks | Searched:
        return even_until_searched(depth, stack)


class _Gated(Policy):
    """Each block runs with a probability of its own; an empty draw is drawn again.

    `keep_prob` is the chance that a block runs, not that it is dropped.
    """

    keep_prob: float = Field(gt=0, le=1, examples=[0.5])

    def subset_at(self, depth: int, stack: Stack) -> Blocks | Searched:
        return even_until_searched(depth, stack)


@register_policy("bernoulli")
class Bernoulli(_Gated):
    """Each block runs with `keep_prob`, independently (LDASR, LayerDrop); an empty draw is drawn again."""

    def draw(self, step: int, stack: Stack, rng: Random) -> tuple[Blocks, ...]:
        return (_gated(rng, [self.keep_prob] * stack.n_blocks),)


@register_policy("uniform_count")
class UniformCount(Policy):
    """A depth from `min_depth` to N with equal chances, then that many blocks, by default any choice (DLD).

    `subsets` says which blocks a depth has ("random" if left out): any, the first ones, evenly spaced ones, those of
    the ladder of the model that the run starts from, or those that the network's selector chooses ("chosen").
    """

    subsets: Rule | None = None
    min_depth: int = Field(default=1, ge=1)

    def draw(self, step: int, stack: Stack, rng: Random) -> tuple[Blocks, ...]:
        return (self._of_depth(self._draw_depth(stack, rng), stack, rng),)

    def _draw_depth(self, stack: Stack, rng: Random) -> int:
        return stack.draw_depth(rng, check_depth(self.min_depth, stack.n_blocks))

    def _of_depth(self, depth: int, stack: Stack, rng: Random) -> Blocks:
        return select(self.subsets or "random", stack.n_blocks, depth, stack.ladder, rng)

    def subset_at(self, depth: int, stack: Stack) -> Blocks | Searched:
        if self.subsets in (None, "random"):
            return even_until_searched(depth, stack)
        return select(self.subsets, stack.n_blocks, depth, stack.ladder)

    def shallowest(self) -> int:
        return self.min_depth

    def needs(self) -> Literal["ladder", "selector"] | None:
        if self.subsets == "ladder":
            return "ladder"
        return "selector" if self.subsets == "chosen" else None

    def needing(self) -> str:
        return f"policy.subsets is {self.subsets!r}"


@register_policy("stochastic_depth")
class StochasticDepth(_Gated):
    """Keep probability falls linearly from 1 before the first block to `keep_prob` at the last (Huang 2016)."""

    def draw(self, step: int, stack: Stack, rng: Random) -> tuple[Blocks, ...]:
        n_blocks = stack.n_blocks
        return (_gated(rng, [1.0 - (i + 1) / n_blocks * (1.0 - self.keep_prob) for i in range(n_blocks)]),)


@register_policy("prefix")
class Prefix(Policy):
    """The first n blocks, n from 1 to N with equal chances: one early exit a step."""

    def draw(self, step: int, stack: Stack, rng: Random) -> tuple[Blocks, ...]:
        return (BlockSubset.prefix(stack.n_blocks, stack.draw_depth(rng)),)

    def subset_at(self, depth: int, stack: Stack) -> Blocks | Searched:
        return BlockSubset.prefix(stack.n_blocks, depth)


@register_policy("sandwich")
class Sandwich(UniformCount):
    """The smallest (`min_depth` blocks), a random one and the full one in one step (Yu & Huang 2019, TODM).

    `subsets` and `min_depth` are those of uniform_count.
    """

    last_is_full = True

    def draw(self, step: int, stack: Stack, rng: Random) -> tuple[Blocks, ...]:
        smallest = self._of_depth(self.min_depth, stack, rng)
        return (smallest, self._of_depth(self._draw_depth(stack, rng), stack, rng), BlockSubset.full(stack.n_blocks))


def _gated(rng: Random, keep_probs: list[float]) -> BlockSubset:
    while True:
        kept = tuple(i for i, p in enumerate(keep_probs) if rng.random() < p)
        if kept:
            return BlockSubset(len(keep_probs), kept)
