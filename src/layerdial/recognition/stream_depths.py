"""Which blocks run in each chunk of a stream: as somebody gave them, or as a rule of its own finds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from layerdial.errors import UserError
from layerdial.subset import BlockSubset


class Choice(NamedTuple):
    """The blocks of a chunk, and the reason for them, where nobody gave them."""

    subset: BlockSubset
    reason: str = ""


@runtime_checkable
class DepthRule(Protocol):
    """Chooses the blocks of chunks. One rule may serve several streams."""

    def choose(self, chunks: Sequence[int], seconds: float, waited: float, now: float) -> list[Choice]:
        """Return the blocks of the chunks that several streams have ready: of each its number, counted from 0.

        Each is `seconds` long, and has waited for up to `waited` seconds; `now` is of any clock.
        """
        ...

    def observe(self, subset: BlockSubset, streams: int, seconds: float, took_ms: float, now: float) -> None:
        """Note that these blocks took so many milliseconds for a chunk of each of so many streams at once."""
        ...


Depth = int | BlockSubset
Depths = Depth | Sequence[Depth] | Callable[[int], Depth] | DepthRule
"""A depth, or blocks; one for each chunk, begun anew at the end; a function of the chunk's number; or a rule."""


class GivenDepths:
    """One depth for all chunks, or one for each; `blocks_of(depth)` are the blocks of what was given."""

    def __init__(self, of_chunk: Callable[[int], Depth], blocks_of: Callable[[Depth], BlockSubset]) -> None:
        self._of_chunk, self._blocks_of = of_chunk, blocks_of

    def choose(self, chunks: Sequence[int], seconds: float, waited: float, now: float) -> list[Choice]:
        return [Choice(self._blocks_of(self._of_chunk(chunk))) for chunk in chunks]

    def observe(self, subset: BlockSubset, streams: int, seconds: float, took_ms: float, now: float) -> None:
        """Note nothing: time changes no depth that was given."""


def depth_rule(depths: Depths, blocks_of: Callable[[Depth], BlockSubset]) -> DepthRule:
    """Return the rule for depths in any form; `blocks_of` is as for `GivenDepths`.

    Raises `UserError` for none, and what `blocks_of` raises for a depth that does not exist.
    """
    if isinstance(depths, DepthRule):
        return depths
    if callable(depths):
        return GivenDepths(depths, blocks_of)
    given = tuple(map(blocks_of, (depths,) if isinstance(depths, int | BlockSubset) else depths))
    if not given:
        raise UserError("the depths of chunks are none; give one or more")
    return GivenDepths(lambda chunk: given[chunk % len(given)], blocks_of)
