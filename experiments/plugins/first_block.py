"""A drop policy: the first block always runs, the others run with a probability each."""

from random import Random

from pydantic import Field

from layerdial import BlockSubset, Policy, Searched, Stack, register_policy


@register_policy("first_block")
class FirstBlock(Policy):
    """Each block after the first runs with `keep_prob`."""

    keep_prob: float = Field(default=0.5, gt=0, le=1)

    def draw(self, step: int, stack: Stack, rng: Random) -> tuple[BlockSubset, ...]:
        others = [i for i in range(1, stack.n_blocks) if rng.random() < self.keep_prob]
        return (BlockSubset(stack.n_blocks, (0, *others)),)

    def subset_at(self, depth: int, stack: Stack) -> Searched:
        return Searched(BlockSubset.even(stack.n_blocks, depth))  # the first block is among them
