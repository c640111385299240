"""Whisper's encoder before its first block, for audio of any length.

The library's own code does this for 30 s alone.
Shapes: B batch, T mel frames, T' encoder frames, F mel bins, D width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from layerdial.modules.subsampling import frame_mask


def longest_input(encoder: Any) -> int:
    """Return the most mel frames that the encoder has positions for: those of 30 s in published checkpoints."""
    return 2 * int(encoder.max_source_positions)


def before_blocks(encoder: Any, inputs: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return the stream before the first block (B, T', D), and which of its frames are real: (B, 1, 1, T') bool.

    `inputs` is log-mel (B, T, F). Without `lengths_B` nothing is padded, and there is no mask. Frames of padding are
    zero before each convolution, as beyond the ends of a single utterance.
    """
    x_BDT = inputs.transpose(1, 2).to(encoder.conv1.weight.dtype)
    if lengths_B is None:
        return _after_convolutions(encoder, F.gelu(encoder.conv1(x_BDT))), None
    lengths_B = lengths_B.to(inputs.device, non_blocking=True)
    real_B1T = frame_mask(lengths_B, inputs.shape[1]).unsqueeze(1)
    x_BTD = _after_convolutions(encoder, F.gelu(encoder.conv1(x_BDT * real_B1T)) * real_B1T)
    return x_BTD, frame_mask((lengths_B + 1) // 2, x_BTD.shape[1])[:, None, None]


def _after_convolutions(encoder: Any, x_BDT: Tensor) -> Tensor:
    """Return the stream (B, T', D) of what the first convolution made. The second one's stride is two."""
    x_BTD = F.gelu(encoder.conv2(x_BDT)).transpose(1, 2)
    x_BTD = x_BTD + encoder.embed_positions.weight[: x_BTD.shape[1]]
    return F.dropout(x_BTD, p=encoder.dropout, training=encoder.training)
