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


def frames_from(x_BTD: Tensor, first_B: Tensor, count: int) -> Tensor:
    """Return `count` frames of each stream (B, count, D), from a frame of its own on."""
    stream_B1 = torch.arange(x_BTD.shape[0], device=x_BTD.device).unsqueeze(1)
    return x_BTD[stream_B1, first_B.unsqueeze(1) + torch.arange(count, device=x_BTD.device)]


def conv_over_time(conv: nn.Conv1d, x_BTC: Tensor, padding: int | None = None) -> Tensor:
    """Apply `conv` along T of (B, T, C), the layout of the surrounding code; with its own padding if none is given.

    Computed as a two-dimensional convolution of height 1. That kernel takes this layout as it is (channels last), where
    the one-dimensional one would reorder it. For depthwise convolutions on CPUs it is several times as fast.
    """
    y_BC1T = F.conv2d(
        x_BTC.transpose(1, 2).unsqueeze(2),
        conv.weight.unsqueeze(2),
        conv.bias,
        stride=(1, conv.stride[0]),
        padding=(0, int(conv.padding[0]) if padding is None else padding),
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

    def step(
        self, x_BTF: Tensor, lengths_B: Tensor, input_B1F: Tensor, middle_B1D: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Go on with the next inputs of streams, behind the last input and the last frame between the convolutions.

        Returns the frames (B, ceil(T/4), D) and both caches anew. Zeros are the caches of the beginning. Lengths are
        multiples of four, but for the last chunk of a stream.
        """
        x_BTF = torch.cat([input_B1F, x_BTF], dim=1)
        middle_BTD = F.silu(conv_over_time(self.conv_in, F.pad(x_BTF, (0, 0, 0, 1)), padding=0))
        half_B = (lengths_B + 1) // 2
        middle_BTD = middle_BTD.masked_fill(~frame_mask(half_B, middle_BTD.shape[1]).unsqueeze(2), 0.0)
        middle_BTD = torch.cat([middle_B1D, middle_BTD], dim=1)
        y_BTD = conv_over_time(self.conv_out, F.pad(middle_BTD, (0, 0, 0, 1)), padding=0)
        last = (frames_from(x_BTF, lengths_B, 1), frames_from(middle_BTD, half_B, 1))
        return self.dropout(self.norm(y_BTD)), *last
