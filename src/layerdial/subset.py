"""The blocks of an encoder that run, or their number. It is an argument of every call, never a mode of the model."""

from __future__ import annotations

import random as _random
from collections.abc import Iterator
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


@dataclass(frozen=True, slots=True)
class ChunkSchedule:
    """What a streaming network does chunk by chunk: frames of the encoder's output a chunk, and the blocks that run.

    Both begin anew when they are used up: chunk i has `frames[i % len(frames)]` frames and runs
    `subsets[i % len(subsets)]`.

    >>> ChunkSchedule((8,), (BlockSubset.prefix(4, 2),)).key
    '1100@8'
    """

    frames: tuple[int, ...]
    subsets: tuple[BlockSubset, ...]

    def __post_init__(self) -> None:
        if not self.frames or min(self.frames) < 1:
            raise UserError(f"a chunk has one frame or more, found {list(self.frames)}")
        if not self.subsets or len({subset.n_blocks for subset in self.subsets}) > 1:
            raise UserError(
                f"the subsets of chunks are for {[s.n_blocks for s in self.subsets]} blocks; give one stack's"
            )

    @property
    def n_blocks(self) -> int:
        return self.subsets[0].n_blocks

    @property
    def depth(self) -> int:
        """The most blocks that run in a chunk."""
        return max(subset.depth for subset in self.subsets)

    @property
    def key(self) -> str:
        """The key as text, beside the keys of subsets."""
        return f"{','.join(subset.key for subset in self.subsets)}@{','.join(map(str, self.frames))}"

    def chunks(self, n_frames: int) -> Iterator[tuple[int, int, BlockSubset]]:
        """Yield for each chunk its first frame, the one behind its last, and its subset, until `n_frames` are covered.

        The last chunk ends with the frames.
        """
        first = index = 0
        while first < n_frames:
            end = min(n_frames, first + self.frames[index % len(self.frames)])
            yield first, end, self.subsets[index % len(self.subsets)]
            first, index = end, index + 1


Blocks = BlockSubset | SelectorDepth | ChunkSchedule


def in_chunks(blocks: Blocks, frames: int | None) -> Blocks:
    """Return a subset as it runs in chunks of `frames`; as it is where there are none, or where it is no subset."""
    return ChunkSchedule((frames,), (blocks,)) if frames is not None and isinstance(blocks, BlockSubset) else blocks


def check_depth(depth: int, n_blocks: int, shallowest: int = 1) -> int:
    """Return `depth` if an encoder of `n_blocks` blocks has it, else raise `UserError`.

    `shallowest` is the least depth that the message offers: a model need not be trained at all of them.
    """
    if not 1 <= depth <= n_blocks:
        choice = f"choose {shallowest} to {n_blocks}" if shallowest < n_blocks else f"choose {n_blocks}"
        raise UserError(f"depth {depth} does not exist in an encoder of {n_blocks} blocks; {choice}")
    return depth
