"""The dynamic encoder: a stack of blocks of which a subset runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import Tensor, nn

from layerdial.errors import UserError
from layerdial.modules.attention import FrameContext
from layerdial.subset import BlockSubset

SkipRule = Literal["identity", "norm"]


class DynamicEncoder(nn.Module):
    """y_{i+1} = block_i(y_i) where the subset keeps block i, else y_i ("identity") or block_i's final norm ("norm").

    A skipped block is never called, so it costs nothing and gets no gradient.
    """

    def __init__(self, blocks: Iterable[nn.Module], skip: SkipRule) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.skip = skip

    def forward(self, x_BTD: Tensor, context: FrameContext, subset: BlockSubset) -> Tensor:
        if subset.n_blocks != len(self.blocks):
            raise UserError(f"subset is for {subset.n_blocks} blocks, this encoder has {len(self.blocks)}")
        for i, block in enumerate(self.blocks):
            if i in subset:
                x_BTD = block(x_BTD, context)
            elif self.skip == "norm":
                x_BTD = block.skipped(x_BTD)  # type: ignore[operator]
        return x_BTD
