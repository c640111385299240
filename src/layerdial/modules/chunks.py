"""Which frames attention sees where speech is recognised in chunks.

Shapes: B batch, T frames, S frames that are attended to.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from layerdial.modules.attention import FrameContext
from layerdial.modules.subsampling import frame_mask
from layerdial.subset import ChunkSchedule


def seeing_chunks(context: FrameContext, schedule: ChunkSchedule, left_frames: int) -> FrameContext:
    """Return a context in which each frame sees its chunk, and `left_frames` frames before that chunk."""
    n_frames = context.mask_BT.shape[1]
    bounds = torch.tensor(
        [(first, end) for first, end, _ in schedule.chunks(n_frames) for _ in range(first, end)],
        device=context.mask_BT.device,
    )
    frame_S = torch.arange(n_frames, device=bounds.device)
    seen_TS = (frame_S >= bounds[:, :1] - left_frames) & (frame_S < bounds[:, 1:])
    return replace(context, attended_BTS=_never_none(seen_TS & context.mask_BT.unsqueeze(1), context.mask_BT))


def _never_none(attended_BTS: Tensor, mask_BT: Tensor) -> Tensor:
    """Let frames of padding see every real frame, since softmax over nothing is no number."""
    return attended_BTS | (~mask_BT.unsqueeze(2) & mask_BT.unsqueeze(1))


def seen_behind(seen_B: Tensor, lengths_B: Tensor, past: int, n_frames: int) -> Tensor:
    """Return which of `past` frames in a cache and of a chunk behind them are real: (B, past + n_frames).

    `seen_B` frames came before the chunk; the last `past` of them are in the cache, at its end.
    """
    before_BS = torch.arange(past, device=seen_B.device) >= past - seen_B.unsqueeze(1)
    return torch.cat([before_BS, frame_mask(lengths_B, n_frames)], dim=1)
