"""Multi-head self-attention with rotary positions (Su et al., arXiv 2104.09864): relative, for any length.

Shapes: B batch, T frames, P frames before them, S frames that are attended to, D width, E = 2D, H heads, K width of a
head.
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

    `mask_BT`: true where a frame is real. `cos_SK`, `sin_SK`: the rotation of each position. `attended_BTS`: which
    frames each frame attends to, where that is not every real one.
    """

    mask_BT: Tensor
    cos_SK: Tensor
    sin_SK: Tensor
    attended_BTS: Tensor | None = None

    @classmethod
    def make(cls, lengths_B: Tensor, n_frames: int, head_width: int, dtype: torch.dtype) -> FrameContext:
        return cls(
            frame_mask(lengths_B, n_frames), *rotations(n_frames, head_width, dtype=dtype, device=lengths_B.device)
        )

    @property
    def attention_mask(self) -> Tensor:
        """True where a frame is attended to, (B, 1, T or 1, S), the same for every head."""
        return self.mask_BT[:, None, None, :] if self.attended_BTS is None else self.attended_BTS.unsqueeze(1)

    def rows(self, rows_R: Tensor) -> FrameContext:
        """Return the context of some utterances of the batch."""
        attended = None if self.attended_BTS is None else self.attended_BTS[rows_R]
        return FrameContext(self.mask_BT[rows_R], self.cos_SK, self.sin_SK, attended)


def rotations(
    n_frames: int, head_width: int, dtype: torch.dtype, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Return the cosine and the sine of the angles (S, K) by which positions 0, 1, ... are rotated."""
    frequency_K = 10000.0 ** (-torch.arange(0, head_width, 2, device=device, dtype=torch.float32) / head_width)
    angle_SK = torch.arange(n_frames, device=device, dtype=torch.float32).unsqueeze(1) * frequency_K
    angle_SK = torch.cat([angle_SK, angle_SK], dim=1)
    return angle_SK.cos().to(dtype), angle_SK.sin().to(dtype)


def rotate(x_TK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Rotate each pair of channels (..., H, T, K) by the angle of its position."""
    if torch.compiler.is_exporting():
        return _rotate_in_one_node(x_TK, cos_TK, sin_TK)
    first, second = x_TK.chunk(2, dim=-1)
    return x_TK * cos_TK + torch.cat([-second, first], dim=-1) * sin_TK


def _rotate_in_one_node(x_TK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Rotate by ONNX's RotaryEmbedding, which devices run several times as fast as its parts."""
    from torch.onnx.ops import rotary_embedding

    rows_RHTK = x_TK.flatten(0, -4)
    half = x_TK.shape[-1] // 2
    angles = [part_TK[:, :half].expand(rows_RHTK.shape[0], -1, -1) for part_TK in (cos_TK, sin_TK)]
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
        qkv_3BHTK = self._split(self.qkv(self.norm(x_BTD)), 3)
        q_BHTK, k_BHTK = rotate(qkv_3BHTK[:2], context.cos_SK, context.sin_SK).unbind(0)
        return self._attend(q_BHTK, k_BHTK, qkv_3BHTK[2], context)

    def behind(self, past_BPE: Tensor, x_BTD: Tensor, context: FrameContext) -> tuple[Tensor, Tensor]:
        """Attend to the frames before as well, whose keys and values are given; also return those of the new ones.

        They are projections side by side (B, T, E), not rotated yet. The context has rotations for all S frames.
        """
        q_BTD, new_BTE = self.qkv(self.norm(x_BTD)).tensor_split([x_BTD.shape[2]], dim=2)
        kv_BSE = torch.cat([past_BPE, new_BTE], dim=1)
        past = past_BPE.shape[1]
        q_1BHTK, kv_2BHSK = self._split(q_BTD, 1), self._split(kv_BSE, 2)
        q_BHTK = rotate(q_1BHTK, context.cos_SK[past:], context.sin_SK[past:]).squeeze(0)
        k_BHSK = rotate(kv_2BHSK[:1], context.cos_SK, context.sin_SK).squeeze(0)
        return self._attend(q_BHTK, k_BHSK, kv_2BHSK[1], context), new_BTE

    def keys_and_values(self, x_BTD: Tensor) -> Tensor:
        """Return the projections (B, T, E) of inputs. (Queries go unused: a part of the weights would be a copy.)"""
        return self.qkv(self.norm(x_BTD))[:, :, x_BTD.shape[2] :]  # type: ignore[no-any-return]

    def _split(self, x_BTD: Tensor, parts: int) -> Tensor:
        """Return the heads (parts, B, H, T, K) of several projections side by side."""
        batch, frames, width = x_BTD.shape
        return x_BTD.view(batch, frames, parts, self.heads, width // parts // self.heads).permute(2, 0, 3, 1, 4)

    def _attend(self, q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, context: FrameContext) -> Tensor:
        dropout = self.dropout.p if self.training else 0.0
        y_BHTK = F.scaled_dot_product_attention(
            q_BHTK, k_BHSK, v_BHSK, attn_mask=context.attention_mask, dropout_p=dropout
        )
        y_BTD = y_BHTK.transpose(1, 2).flatten(2)
        return self.dropout(self.out(y_BTD))  # type: ignore[no-any-return]
