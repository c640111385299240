"""The rule that layerdial does not follow: where a block did not run, it has a hole.

    python experiments/streaming/holes.py RECIPE.yaml [--set KEY=VALUE]

trains a recipe by it, as `layerdial train` does by the other. Attention does not see the frames at which the block did
not run, and the convolution takes zeros there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from layerdial.modules.attention import FrameContext
from layerdial.modules.conformer import ConformerBlock


def by_frame_with_holes(
    block: ConformerBlock, x_BTD: Tensor, entering_BTD: Tensor, context: FrameContext, runs_T1: Tensor
) -> Tensor:
    """Do what `ConformerBlock.by_frame` does, but see only frames of which `runs_T1` is true."""
    runs_T = runs_T1.squeeze(1)
    seen_BTS = context.mask_BT.unsqueeze(1) if context.attended_BTS is None else context.attended_BTS
    own_BTS = seen_BTS & runs_T
    nothing_BT1 = ~own_BTS.any(dim=2, keepdim=True)  # of padding, and of frames that do not run
    context = replace(context, mask_BT=context.mask_BT & runs_T, attended_BTS=own_BTS | (nothing_BT1 & seen_BTS))
    return torch.where(runs_T1, block(entering_BTD, context), x_BTD)


@contextmanager
def holes() -> Iterator[None]:
    """Let blocks follow the rule in networks that run within."""
    before = ConformerBlock.by_frame
    ConformerBlock.by_frame = by_frame_with_holes  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConformerBlock.by_frame = before  # type: ignore[method-assign]


if __name__ == "__main__":
    from layerdial.cli.app import main

    sys.argv.insert(1, "train")
    with holes():
        main()
