"""The front end's two stride-2 convolutions, 4x fewer frames.

Shapes: B batch, T frames, F mel bins, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SUBSAMPLING = 4


def frame_mask(lengths_B: Tensor, n_frames: int) -> Tensor:
    """Return a mask (B, T) bool, true where a frame is real and not padding."""
    return torch.arange(n_frames, device=lengths_B.device) < lengths_B.unsqueeze(1)


def conv_over_time(conv: nn.Conv1d, x_BTC: Tensor) -> Tensor:
    """Apply `conv` along T of (B, T, C), the layout of the surrounding code.

    Computed as a two-dimensional convolution of height 1. That kernel takes this layout as it is (channels last), where
    the one-dimensional one would reorder it. For depthwise convolutions on CPUs it is several times as fast.
    """
    y_BC1T = F.conv2d(
        x_BTC.transpose(1, 2).unsqueeze(2),
        conv.weight.unsqueeze(2),
        conv.bias,
        stride=(1, conv.stride[0]),
        padding=(0, int(conv.padding[0])),
        groups=conv.groups,
    )
    return y_BC1T.squeeze(2).transpose(1, 2)


class ConvSubsampling(nn.Module):
    """Two strided convolutions (B, T, F) -> (B, ceil(T/4), D), before each of which padding frames are zeroed."""

    def __init__(self, n_mels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.conv_in = nn.Conv1d(n_mels, width, kernel_size=3, stride=2, padding=1)
        self.conv_out = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def begin_without_level(self) -> None:
        """Change the initial weights so that the level, common to all bins and frames, has no effect at first.

        Where it is not taken out of each utterance, it makes all frames look alike, and CTC stays at blanks longer.
        """
        with torch.no_grad():
            self.conv_in.weight -= self.conv_in.weight.mean((1, 2), keepdim=True)
            for conv in (self.conv_in, self.conv_out):
                assert conv.bias is not None
                conv.bias.zero_()

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        x_BTD = F.silu(conv_over_time(self.conv_in, x_BTF))
        half_B = (lengths_B + 1) // 2
        x_BTD = x_BTD.masked_fill(~frame_mask(half_B, x_BTD.shape[1]).unsqueeze(2), 0.0)
        x_BTD = conv_over_time(self.conv_out, x_BTD)
        return self.dropout(self.norm(x_BTD))  # type: ignore[no-any-return]
