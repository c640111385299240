"""The blocks of an encoder that run, or their number. It is an argument of every call, never a mode of the model."""

from __future__ import annotations

import random as _random
from dataclasses import dataclass

from layerdial.errors import UserError


@dataclass(frozen=True, slots=True)
class BlockSubset:
    """The blocks that run, out of `n_blocks`, counted from 0.

    >>> BlockSubset.prefix(12, 6).key
    '111111000000'
    """

    n_blocks: int
    kept: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.kept:
            raise UserError(f"a subset of {self.n_blocks} blocks keeps none; at least one block must run")
        if list(self.kept) != sorted(set(self.kept)):
            raise UserError(f"kept blocks must be ascending and unique, found {list(self.kept)}")
        if self.kept[0] < 0 or self.kept[-1] >= self.n_blocks:
            raise UserError(f"kept blocks {list(self.kept)} are not all within 0..{self.n_blocks - 1}")

    @classmethod
    def full(cls, n_blocks: int) -> BlockSubset:
        """Return every block: no dropping."""
        return cls(n_blocks, tuple(range(n_blocks)))

    @classmethod
    def prefix(cls, n_blocks: int, depth: int) -> BlockSubset:
        """Return the first `depth` blocks, as an early exit would run them."""
        return cls(n_blocks, tuple(range(check_depth(depth, n_blocks))))

    @classmethod
    def even(cls, n_blocks: int, depth: int) -> BlockSubset:
        """Return `depth` blocks spread evenly, the first and (from depth 2) the last among them."""
        check_depth(depth, n_blocks)
        if depth == 1:
            return cls(n_blocks, (0,))
        step = (n_blocks - 1) / (depth - 1)
        return cls(n_blocks, tuple(int(i * step + 0.5) for i in range(depth)))

    @classmethod
    def random(cls, n_blocks: int, depth: int, seed: int | _random.Random) -> BlockSubset:
        """Draw `depth` blocks uniformly: by a generator, or by a seed, with which every machine draws the same."""
        check_depth(depth, n_blocks)
        rng = seed if isinstance(seed, _random.Random) else _random.Random(f"subset/{n_blocks}/{depth}/{seed}")
        return cls(n_blocks, tuple(sorted(rng.sample(range(n_blocks), depth))))

    @classmethod
    def from_key(cls, key: str) -> BlockSubset:
        """Return the subset of a key, the inverse of `key`: "1010" keeps blocks 0 and 2 of four."""
        if not key or set(key) - {"0", "1"}:
            raise UserError(f"a subset key is made of 0 and 1, one a block, found {key!r}")
        return cls(len(key), tuple(i for i, gate in enumerate(key) if gate == "1"))

    @property
    def key(self) -> str:
        """The gates as text, one character a block: "1" runs, "0" is left out."""
        return "".join("1" if i in self.kept else "0" for i in range(self.n_blocks))

    @property
    def depth(self) -> int:
        """The number of blocks that run."""
        return len(self.kept)

    def __contains__(self, block: int) -> bool:
        return block in self.kept

    def without(self, block: int) -> BlockSubset:
        """Return this subset with one block fewer."""
        return BlockSubset(self.n_blocks, tuple(i for i in self.kept if i != block))


@dataclass(frozen=True, slots=True)
class SelectorDepth:
    """The number of blocks that run; the network's own selector decides which, for each utterance.

    >>> SelectorDepth(12, 6).key
    '6-of-12'
    """

    n_blocks: int
    depth: int

    def __post_init__(self) -> None:
        check_depth(self.depth, self.n_blocks)

    @property
    def key(self) -> str:
        """The key as text, beside the keys of subsets."""
        return f"{self.depth}-of-{self.n_blocks}"


Blocks = BlockSubset | SelectorDepth


def check_depth(depth: int, n_blocks: int, shallowest: int = 1) -> int:
    """Return `depth` if an encoder of `n_blocks` blocks has it, else raise `UserError`.

    `shallowest` is the least depth that the message offers: a model need not be trained at all of them.
    """
    if not 1 <= depth <= n_blocks:
        choice = f"choose {shallowest} to {n_blocks}" if shallowest < n_blocks else f"choose {n_blocks}"
        raise UserError(f"depth {depth} does not exist in an encoder of {n_blocks} blocks; {choice}")
    return depth
