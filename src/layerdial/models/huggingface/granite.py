"""Granite Speech's CTC model: blocks that halve time come first, and the middle of the others is conditioned.

After the block in the middle the library adds a projection of the posteriors so far (self-conditioning). Blocks that
halve time cannot be left out, so those up to the last of them always run; the others can be dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from layerdial.errors import UserError
from layerdial.models.dynamic import Choice
from layerdial.models.huggingface.ctc import BlocksAsOneLayer, FastConformerCTC
from layerdial.models.network import EncoderOutput
from layerdial.subset import BlockSubset


class BlocksInTwoRuns(BlocksAsOneLayer):
    """The blocks as the encoder's layers: the first `always`, then one layer that runs kept blocks up to the middle.

    A second one runs those after it. Layers that do nothing keep the encoder's count, by which it finds the middle.
    """

    def __init__(self, blocks: Iterable[nn.Module], always: int) -> None:
        super().__init__(blocks)
        self.always = always

    @property
    def blocks(self) -> list[nn.Module]:
        return super().blocks[self.always :]

    def __iter__(self) -> Iterator[Any]:
        every = super().blocks
        yield from map(_always, every[: self.always])
        before = max(0, len(every) // 2 - self.always)
        if before:
            yield self._span(range(before))
            yield from [_nothing] * (before - 1)
        yield self._span(range(before, len(every) - self.always))

    def _span(self, span: range) -> Any:
        def run(x_BTD: Tensor, **keywords: Any) -> Tensor:
            return self(x_BTD, span=span, **keywords)  # type: ignore[no-any-return]

        return run


def _always(block: nn.Module) -> Any:
    def run(x_BTD: Tensor, *, subset: Choice, **rest: Any) -> Tensor:
        return block(x_BTD, **rest)  # type: ignore[no-any-return]

    return run


def _nothing(x_BTD: Tensor, **keywords: Any) -> Tensor:
    return x_BTD


class GraniteCTC(FastConformerCTC):
    """Granite Speech with CTC. It has no exits: a pass of its first blocks would be conditioned in another place."""

    def _as_one_layer(self, blocks: Iterable[nn.Module]) -> nn.Module:
        return BlocksInTwoRuns(blocks, always_run(self.encoder.config))

    def forward(self, inputs: Tensor, lengths_B: Tensor, subset: Choice, exits: Sequence[int] = ()) -> EncoderOutput:
        if exits:
            raise UserError("Granite Speech has no exits, since its middle block feeds posteriors back; leave them out")
        return super().forward(inputs, lengths_B, subset)


def always_run(config: Any) -> int:
    """Return how many of an encoder's first blocks always run; `UserError` where none is left to drop."""
    always = max(config.subsample_layers, default=-1) + 1
    if always >= config.num_hidden_layers:
        found = f"subsample_layers {config.subsample_layers} of {config.num_hidden_layers} blocks"
        raise UserError(f"Granite Speech's last block halves time ({found}), so that none can be left out")
    return always


def check_middle(config: Any, subset: BlockSubset) -> None:
    """Raise `UserError` unless a model of the kept blocks alone has its middle where this one has it.

    The library puts it after half of all blocks, whichever these are.
    """
    always = always_run(config)
    middle = config.num_hidden_layers // 2
    before = sum(i + always < middle for i in subset.kept)
    found, wanted = min(middle, always) + before, (always + subset.depth) // 2
    if found != wanted:
        raise UserError(
            f"blocks {subset.key} have {found} blocks before the conditioned middle, a model of these alone would have "
            f"{wanted}; choose another depth, or keep the dynamic model"
        )
