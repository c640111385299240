"""The Conformer block (Gulati et al., arXiv 2005.08100), assembled from parts, without a config.

Shapes: B batch, T frames, P and K frames before them, S all, D width, E = 2D.
"""

from __future__ import annotations

from typing import NamedTuple

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
        y_BTD = self.gated(x_BTD, context.mask_BT)
        if self.causal:
            y_BTD = F.pad(y_BTD, (0, 0, self.depthwise.kernel_size[0] - 1, 0))
        return self._over_time(y_BTD)

    def behind(self, past_BPD: Tensor, x_BTD: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Continue behind the kernel - 1 frames before, whose `gated` is given; also return that of the new ones."""
        gated_BTD = self.gated(x_BTD, mask_BT)
        return self._over_time(torch.cat([past_BPD, gated_BTD], dim=1)), gated_BTD

    def gated(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Return what the depthwise convolution takes; zeros in padding."""
        y_BTD = F.glu(self.pointwise_in(self.norm(x_BTD)), dim=-1)
        return y_BTD.masked_fill(~mask_BT.unsqueeze(2), 0.0)

    def _over_time(self, y_BTD: Tensor) -> Tensor:
        y_BTD = self.depthwise_norm(conv_over_time(self.depthwise, y_BTD, padding=0 if self.causal else None))
        return self.dropout(self.pointwise_out(F.silu(y_BTD)))  # type: ignore[no-any-return]


class Past(NamedTuple):
    """What a block keeps of frames: keys and values (B, P, E), E = 2D, and what its convolution takes (B, K, D).

    Of frames at which it did not run, which `raw_keys_BP` and `raw_gated_BK` mark, both hold the block's input: in the
    first half, for keys and values.
    """

    keys_BPE: Tensor
    gated_BKD: Tensor
    raw_keys_BP: Tensor
    raw_gated_BK: Tensor


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

    def step(self, x_BTD: Tensor, keys_BPE: Tensor, gated_BKD: Tensor, context: FrameContext) -> tuple[Tensor, Tensor]:
        """Run for a chunk behind a past without raw frames; also return what is kept of the chunk (B, T, E + 2D).

        That are keys and values, `gated`, and what the block returns, which those behind it keep if they do not run.
        """
        x_BTD = torch.add(x_BTD, self.ff_in(x_BTD), alpha=0.5)
        y_BTD, keys_BTE = self.attention.behind(keys_BPE, x_BTD, context)
        x_BTD = x_BTD + y_BTD
        y_BTD, gated_BTD = self.convolution.behind(gated_BKD, x_BTD, context.mask_BT)
        x_BTD = x_BTD + y_BTD
        x_BTD = torch.add(x_BTD, self.ff_out(x_BTD), alpha=0.5)
        x_BTD = self.norm(x_BTD)
        return x_BTD, torch.cat([keys_BTE, gated_BTD, x_BTD], dim=2)

    def left_out(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `step` does where the block does not run: its input, raw, stands for all. Nothing is computed."""
        return x_BTD, torch.cat([x_BTD] * 4, dim=2)

    def caught_up(self, past: Past) -> tuple[Tensor, Tensor]:
        """Return keys and values, and `gated`, of the past; those of raw frames are computed from the block's input."""
        inputs_BPD, raw_BP1, raw_BK1 = past.gated_BKD, past.raw_keys_BP.unsqueeze(2), past.raw_gated_BK.unsqueeze(2)
        computed_BPE = self.attention.keys_and_values(past.keys_BPE[:, :, : inputs_BPD.shape[2]])
        gated_BKD = self.convolution.gated(inputs_BPD, past.raw_gated_BK)
        return torch.where(raw_BP1, computed_BPE, past.keys_BPE), torch.where(raw_BK1, gated_BKD, inputs_BPD)

    def skipped(self, x_BTD: Tensor) -> Tensor:
        """Return what the block leaves when it is dropped under the rule "norm": its final norm (LDASR)."""
        return self.norm(x_BTD)  # type: ignore[no-any-return]
