"""The Conformer block (Gulati et al., arXiv 2005.08100), assembled from parts, without a config.

Shapes: B batch, T frames, P frames before them, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layerdial.modules.attention import FrameContext, RotaryAttention
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
    statistics would mix the depths that a dynamic model is trained at. With `causal` a frame depends on those before
    it alone.
    """

    def __init__(self, width: int, kernel: int, dropout: float, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.norm = nn.LayerNorm(width)
        self.pointwise_in = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.depthwise_norm = nn.LayerNorm(width)
        self.pointwise_out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, context: FrameContext) -> Tensor:
        y_BTD = self._gated(x_BTD, context.mask_BT)
        if self.causal:
            y_BTD = F.pad(y_BTD, (0, 0, self.depthwise.kernel_size[0] - 1, 0))
        return self._over_time(y_BTD)

    def behind(self, past_BPD: Tensor, x_BTD: Tensor, mask_BS: Tensor) -> Tensor:
        """Continue behind the inputs of the P = kernel - 1 frames before; `mask_BS` is true for real frames of both."""
        return self._over_time(self._gated(torch.cat([past_BPD, x_BTD], dim=1), mask_BS))

    def _gated(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        y_BTD = F.glu(self.pointwise_in(self.norm(x_BTD)), dim=-1)
        return y_BTD.masked_fill(~mask_BT.unsqueeze(2), 0.0)

    def _over_time(self, y_BTD: Tensor) -> Tensor:
        y_BTD = self.depthwise_norm(conv_over_time(self.depthwise, y_BTD, padding=0 if self.causal else None))
        return self.dropout(self.pointwise_out(F.silu(y_BTD)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Past:
    """What a block keeps of the frames before a chunk: the inputs of its attention and of its convolution.

    `mask_BS` is true for the frames of the convolution, past and present, that are real.
    """

    attention_BPD: Tensor
    convolution_BPD: Tensor
    mask_BS: Tensor


@dataclass(frozen=True)
class ChunkOutput:
    """A block's output for a chunk (B, T, D), and the inputs of its attention and convolution, for later chunks."""

    x_BTD: Tensor
    attention_BTD: Tensor
    convolution_BTD: Tensor


class ConformerBlock(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, each added to its input; then a norm, if any."""

    def __init__(
        self,
        attention: RotaryAttention,
        convolution: Convolution,
        ff_in: FeedForward,
        ff_out: FeedForward,
        norm: nn.Module,
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

    def by_frame(self, x_BTD: Tensor, entering_BTD: Tensor, context: FrameContext, runs_T1: Tensor) -> Tensor:
        """Run for the frames of which `runs_T1` is true; the others are left as they are in `x_BTD`.

        For those, `x_BTD` is also what attention and convolution take, at other frames, for their input.
        `entering_BTD` is the input of the frames that run.
        """
        h_BTD = torch.where(runs_T1, torch.add(entering_BTD, self.ff_in(entering_BTD), alpha=0.5), x_BTD)
        a_BTD = torch.where(runs_T1, h_BTD + self.attention(h_BTD, context), x_BTD)
        y_BTD = a_BTD + self.convolution(a_BTD, context)
        y_BTD = torch.add(y_BTD, self.ff_out(y_BTD), alpha=0.5)
        return torch.where(runs_T1, self.norm(y_BTD), x_BTD)

    def step(self, x_BTD: Tensor, past: Past, context: FrameContext) -> ChunkOutput:
        """Run for a chunk behind `past`."""
        h_BTD = torch.add(x_BTD, self.ff_in(x_BTD), alpha=0.5)
        a_BTD = h_BTD + self.attention.behind(past.attention_BPD, h_BTD, context)
        y_BTD = a_BTD + self.convolution.behind(past.convolution_BPD, a_BTD, past.mask_BS)
        y_BTD = torch.add(y_BTD, self.ff_out(y_BTD), alpha=0.5)
        return ChunkOutput(self.norm(y_BTD), h_BTD, a_BTD)

    def skipped(self, x_BTD: Tensor) -> Tensor:
        """Return what the block leaves when it is dropped under the rule "norm": its final norm (LDASR)."""
        return self.norm(x_BTD)  # type: ignore[no-any-return]
