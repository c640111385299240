"""The Conformer block (Gulati et al., arXiv 2005.08100), assembled from parts, without a config.

Shapes: B batch, T frames, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layerdial.modules.attention import FrameContext
from layerdial.modules.subsampling import conv_over_time


class FeedForward(nn.Module):
    """Pre-norm feed-forward module: norm, expand, SiLU, contract."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        hidden = self.dropout(F.silu(self.expand(self.norm(x_BTD))))
        return self.dropout(self.contract(hidden))  # type: ignore[no-any-return]


class Convolution(nn.Module):
    """Pre-norm convolution module: gated pointwise, depthwise over time, norm, SiLU, pointwise.

    The norm after the depthwise convolution is a LayerNorm, where the Conformer was published with a BatchNorm. Batch
    statistics would mix the depths that a dynamic model is trained at.
    """

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.pointwise_in = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.depthwise_norm = nn.LayerNorm(width)
        self.pointwise_out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, context: FrameContext) -> Tensor:
        y_BTD = F.glu(self.pointwise_in(self.norm(x_BTD)), dim=-1)
        y_BTD = y_BTD.masked_fill(~context.mask_BT.unsqueeze(2), 0.0)
        y_BTD = self.depthwise_norm(conv_over_time(self.depthwise, y_BTD))
        return self.dropout(self.pointwise_out(F.silu(y_BTD)))  # type: ignore[no-any-return]


class ConformerBlock(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, each added to its input; then a norm, if any."""

    def __init__(
        self, attention: nn.Module, convolution: nn.Module, ff_in: nn.Module, ff_out: nn.Module, norm: nn.Module
    ) -> None:
        super().__init__()
        self.ff_in = ff_in
        self.attention = attention
        self.convolution = convolution
        self.ff_out = ff_out
        self.norm = norm

    def forward(self, x_BTD: Tensor, context: FrameContext) -> Tensor:
        x_BTD = torch.add(x_BTD, self.ff_in(x_BTD), alpha=0.5)
        x_BTD = x_BTD + self.attention(x_BTD, context)
        x_BTD = x_BTD + self.convolution(x_BTD, context)
        x_BTD = torch.add(x_BTD, self.ff_out(x_BTD), alpha=0.5)
        return self.norm(x_BTD)  # type: ignore[no-any-return]

    def skipped(self, x_BTD: Tensor) -> Tensor:
        """Return what the block leaves when it is dropped under the rule "norm": its final norm (LDASR)."""
        return self.norm(x_BTD)  # type: ignore[no-any-return]
