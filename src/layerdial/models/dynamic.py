"""The dynamic encoder: a stack of blocks of which a subset runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from layerdial.errors import UserError
from layerdial.modules.attention import FrameContext
from layerdial.subset import BlockSubset, ChunkSchedule, SelectorDepth

SkipRule = Literal["identity", "norm"]


@dataclass(frozen=True)
class Gates:
    """A subset that is an input of the graph: `open_N` (N,) bool. For export alone; see `layerdial.export.graph`."""

    n_blocks: int
    open_N: Tensor


Choice = BlockSubset | Gates | SelectorDepth | ChunkSchedule
Condition = Callable[[Tensor], Tensor]


class DynamicEncoder(nn.Module):
    """A stack of blocks of which a subset runs.

    y_{i+1} = block_i(y_i) where the subset keeps block i, else y_i ("identity") or block_i's final norm of it ("norm").
    A skipped block is never called, so it costs nothing and gets no gradient.
    """

    def __init__(self, blocks: Iterable[nn.Module], skip: SkipRule) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.skip = skip

    def forward(
        self,
        x_BTD: Tensor,
        context: FrameContext,
        subset: BlockSubset | Gates,
        condition: Condition | None = None,
        keep_states: bool = False,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the stream (B, T, D) after the blocks of `subset`, and its states as `run_blocks` does.

        `condition`, if given, is applied to the stream before each block that runs.
        """

        def run(block: nn.Module, x_BTD: Tensor) -> Tensor:
            return block(x_BTD if condition is None else condition(x_BTD), context)  # type: ignore[no-any-return]

        def skipped(block: nn.Module, x_BTD: Tensor) -> Tensor:
            return block.skipped(x_BTD)  # type: ignore[operator, no-any-return]

        skip = skipped if self.skip == "norm" else None
        return run_blocks(list(self.blocks), x_BTD, subset, run, skip, keep_states)

    def run_chosen(
        self, x_BTD: Tensor, context: FrameContext, gates_BN: Tensor, condition: Condition | None = None
    ) -> Tensor:
        """Return the stream after the blocks whose gate is 1. Each block is called with the utterances that chose it.

        Gates (1, N) hold for all utterances. The gates' values decide which blocks are called, so this waits for the
        device. `condition` is as in `forward`.
        """
        gates_BN = gates_BN.expand(len(x_BTD), -1)
        for i, (block, chosen_B) in enumerate(zip(self.blocks, (gates_BN.detach() > 0.5).t().cpu(), strict=True)):
            if not chosen_B.any():
                continue
            rows_R = chosen_B.nonzero().squeeze(1).to(x_BTD.device)
            before_RTD = x_BTD[rows_R]
            entering_RTD = before_RTD if condition is None else condition(before_RTD)
            change_RTD = block(entering_RTD, context.rows(rows_R)) - before_RTD
            x_BTD = x_BTD.index_add(0, rows_R, change_RTD * gates_BN[rows_R, i].view(-1, 1, 1).to(x_BTD.dtype))
        return x_BTD

    def run_by_chunk(
        self, x_BTD: Tensor, context: FrameContext, schedule: ChunkSchedule, condition: Condition | None = None
    ) -> Tensor:
        """Return the stream after the blocks of each chunk's own subset. A block that no chunk runs is not called.

        `condition` is as in `forward`, for the frames that run.
        """
        check_blocks("schedule", schedule.n_blocks, len(self.blocks))
        chunks = list(schedule.chunks(x_BTD.shape[1]))
        for i, block in enumerate(self.blocks):
            runs = [end - first if i in subset else 0 for first, end, subset in chunks]
            if not any(runs):
                continue
            entering_BTD = x_BTD if condition is None else condition(x_BTD)
            if all(runs):
                x_BTD = block(entering_BTD, context)
                continue
            runs_T = torch.cat([torch.full((end - first,), i in subset) for first, end, subset in chunks])
            x_BTD = block.by_frame(x_BTD, entering_BTD, context, runs_T.to(x_BTD.device).unsqueeze(1))  # type: ignore[operator]
        return x_BTD


BlockFn = Callable[[nn.Module, Tensor], Tensor]


def run_blocks(
    blocks: Sequence[nn.Module],
    x_BTD: Tensor,
    subset: Choice,
    run: BlockFn,
    skipped: BlockFn | None = None,
    keep_states: bool = False,
    span: range | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Call `run(block, x)` for each kept block, of all or of those in `span`.

    A skipped block is not called, unless `skipped` is given, which is applied in its place. Returns the final stream
    and, with `keep_states`, the stream after each block that ran. Without it, no state is kept in memory.
    """
    if isinstance(subset, SelectorDepth):
        raise UserError("this network has no selector that could choose blocks; give a subset, or set model.selector")
    if isinstance(subset, ChunkSchedule):
        raise UserError("this network takes whole utterances, not chunks; give a subset, or set model.streaming")
    check_blocks("subset", subset.n_blocks, len(blocks))
    states: list[Tensor] = []
    for i in range(len(blocks)) if span is None else span:
        block = blocks[i]
        if isinstance(subset, Gates):  # both are traced; the export makes them the branches of an If
            left_BTD = x_BTD if skipped is None else skipped(block, x_BTD)
            x_BTD = torch.where(subset.open_N[i], run(block, x_BTD), left_BTD)
        elif i in subset:
            x_BTD = run(block, x_BTD)
            if keep_states:
                states.append(x_BTD)
        elif skipped is not None:
            x_BTD = skipped(block, x_BTD)
    return x_BTD, states


def check_blocks(what: str, asked: int, found: int) -> None:
    """Raise `UserError` where a subset or a depth is for another number of blocks than the encoder has."""
    if asked != found:
        raise UserError(f"{what} is for {asked} blocks, this encoder has {found}")
