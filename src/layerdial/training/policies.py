"""The drop policy of a run: it draws by (seed, step), and says what is measured and which ladder a run ends with.

Each policy returns the subsets of one step, one for all but the sandwich, whose last is the full one (so that under
data parallelism the backward pass that synchronises gradients reaches every block).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from layerdial.config.policies import Policy, Searched, Stack
from layerdial.config.recipe import Recipe
from layerdial.errors import UserError
from layerdial.ladder import Ladder
from layerdial.subset import Blocks, BlockSubset, SelectorDepth

DrawBlocks = Callable[[int], tuple[Blocks, ...]]


def make_policy(policy: Policy, n_blocks: int, seed: int | str, ladder: Ladder | None = None) -> DrawBlocks:
    """Return step -> the subsets to train at that step. `ladder` is what `subsets: ladder` takes them from.

    Raises `UserError` for a policy that draws what is no subset of these blocks.
    """
    stack = Stack(n_blocks, ladder)

    def draw(step: int) -> tuple[Blocks, ...]:
        rng = random.Random(f"policy/{policy.name}/{seed}/{step}")
        try:
            drawn = policy.draw(step, stack, rng)
        except UserError as error:
            raise UserError(f"policy {policy.name} at step {step}: {error}") from None
        return _checked_draw(policy, drawn, stack)

    return draw


def subset_at(recipe: Recipe, n_blocks: int, depth: int, ladder: Ladder | None = None) -> Blocks | Searched:
    """Return the subset of a depth that was trained; where training draws several, the one to measure until a search.

    Without dropping, an exit after every block trains the first blocks of each depth. Raises `UserError` for a policy
    that names what is no subset of that depth.
    """
    if not recipe.policy.drops and recipe.objective.trains_every_depth(n_blocks):
        return BlockSubset.prefix(n_blocks, depth)
    found = recipe.policy.subset_at(depth, Stack(n_blocks, ladder))
    blocks = found.subset if isinstance(found, Searched) else found
    if not _is_choice(blocks, n_blocks) or blocks.depth != depth:
        raise UserError(
            f"policy {recipe.policy.name} says that depth {depth} of {n_blocks} blocks runs {_say(found)}; "
            f"subset_at returns a BlockSubset of {depth} blocks, or Searched with one"
        )
    return found


def evaluated_subset(recipe: Recipe, n_blocks: int, depth: int, ladder: Ladder | None = None) -> Blocks:
    """Return what runs at `depth` when a network trained by this recipe is measured on dev."""
    found = subset_at(recipe, n_blocks, depth, ladder)
    return found.subset if isinstance(found, Searched) else found


def check_policy(recipe: Recipe, n_blocks: int, ladder: Ladder | None) -> None:
    """Ask a policy before the first step for what it will be asked for later; `UserError` where an answer is wrong."""
    for depth in range(recipe.policy.shallowest(), n_blocks + 1):
        subset_at(recipe, n_blocks, depth, ladder)
    make_policy(recipe.policy, n_blocks, recipe.train.seed, ladder)(0)


def _checked_draw(policy: Policy, drawn: Any, stack: Stack) -> tuple[Blocks, ...]:
    if not isinstance(drawn, tuple) or not drawn or not all(_is_choice(blocks, stack.n_blocks) for blocks in drawn):
        raise UserError(
            f"policy {policy.name} drew {_say(drawn)} for {stack.n_blocks} blocks; draw returns a tuple of BlockSubset"
        )
    if policy.last_is_full and drawn[-1] != BlockSubset.full(stack.n_blocks):
        raise UserError(f"policy {policy.name} says last_is_full, but drew {_say(drawn)}, which ends otherwise")
    return drawn


def _is_choice(blocks: Any, n_blocks: int) -> bool:
    return isinstance(blocks, BlockSubset | SelectorDepth) and blocks.n_blocks == n_blocks


def _say(value: Any) -> str:
    if isinstance(value, BlockSubset | SelectorDepth):
        return value.key
    return f"({', '.join(map(_say, value))})" if isinstance(value, tuple) else repr(value)
