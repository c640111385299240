"""Multi-head self-attention with rotary positions (Su et al., arXiv 2104.09864): relative, for any length.

Shapes: B batch, T frames, D width, H heads, K width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layerdial.modules.subsampling import frame_mask


@dataclass(frozen=True)
class FrameContext:
    """The mask and the rotations that every block needs, made once a forward pass, outside the blocks.

    `mask_BT`: true where a frame is real. `cos_TK`, `sin_TK`: the rotation of each position.
    """

    mask_BT: Tensor
    cos_TK: Tensor
    sin_TK: Tensor

    @classmethod
    def make(cls, lengths_B: Tensor, n_frames: int, head_width: int, dtype: torch.dtype) -> FrameContext:
        device = lengths_B.device
        frequency_K = 10000.0 ** (-torch.arange(0, head_width, 2, device=device, dtype=torch.float32) / head_width)
        angle_TK = torch.arange(n_frames, device=device, dtype=torch.float32).unsqueeze(1) * frequency_K
        angle_TK = torch.cat([angle_TK, angle_TK], dim=1)
        return cls(frame_mask(lengths_B, n_frames), angle_TK.cos().to(dtype), angle_TK.sin().to(dtype))

    def rows(self, rows_R: Tensor) -> FrameContext:
        """Return the context of some utterances of the batch."""
        return FrameContext(self.mask_BT[rows_R], self.cos_TK, self.sin_TK)


def rotate(x_TK: Tensor, context: FrameContext) -> Tensor:
    """Rotate each pair of channels (..., H, T, K) by the angle of its position."""
    if torch.compiler.is_exporting():
        return _rotate_in_one_node(x_TK, context)
    first, second = x_TK.chunk(2, dim=-1)
    return x_TK * context.cos_TK + torch.cat([-second, first], dim=-1) * context.sin_TK


def _rotate_in_one_node(x_TK: Tensor, context: FrameContext) -> Tensor:
    """Rotate by ONNX's RotaryEmbedding, which devices run several times as fast as its parts."""
    from torch.onnx.ops import rotary_embedding

    rows_RHTK = x_TK.flatten(0, -4)
    half = x_TK.shape[-1] // 2
    angles = [part_TK[:, :half].expand(rows_RHTK.shape[0], -1, -1) for part_TK in (context.cos_TK, context.sin_TK)]
    return rotary_embedding(rows_RHTK, *angles).view_as(x_TK)


class RotaryAttention(nn.Module):
    """Pre-norm self-attention; padding frames are never attended to."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, context: FrameContext) -> Tensor:
        batch, frames, width = x_BTD.shape
        qkv = self.qkv(self.norm(x_BTD)).view(batch, frames, 3, self.heads, width // self.heads)
        qkv_3BHTK = qkv.permute(2, 0, 3, 1, 4)
        q_BHTK, k_BHTK = rotate(qkv_3BHTK[:2], context).unbind(0)
        y_BHTK = F.scaled_dot_product_attention(
            q_BHTK,
            k_BHTK,
            qkv_3BHTK[2],
            attn_mask=context.mask_BT[:, None, None, :],
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        y_BTD = y_BHTK.transpose(1, 2).reshape(batch, frames, width)
        return self.dropout(self.out(y_BTD))  # type: ignore[no-any-return]
