"""SpecAugment on the device, without a synchronisation.

Shapes: B batch, T frames, F mel bins, M masks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layerdial.config import SpecAugmentConfig
from layerdial.modules.subsampling import frame_mask


def spec_augment(inputs_BTF: Tensor, lengths_B: Tensor, config: SpecAugmentConfig) -> Tensor:
    """Mask bands and stretches of time of each utterance, filled with its mean per bin (zero after normalisation).

    A stretch is at most `time_width` frames and at most `time_share` of the utterance. Draws come from torch's
    CPU generator, so they are the same on every device.
    """
    _, n_frames, n_mels = inputs_BTF.shape
    batch = len(lengths_B)
    device = inputs_BTF.device
    all_bins_B = torch.full((batch,), n_mels)
    widest_B = torch.full((batch,), config.freq_width).clamp(max=n_mels)
    freq_BF = _stretches(config.freq_masks, widest_B, all_bins_B, n_mels)
    lengths_cpu_B = lengths_B.cpu()
    longest_B = (lengths_cpu_B * config.time_share).long().clamp(max=config.time_width)
    time_BT = _stretches(config.time_masks, longest_B, lengths_cpu_B, n_frames)
    masked_BTF = freq_BF.to(device, non_blocking=True).unsqueeze(1) | time_BT.to(device, non_blocking=True).unsqueeze(2)
    real_BT1 = frame_mask(lengths_cpu_B, n_frames).to(device, non_blocking=True).unsqueeze(2)
    mean_B1F = (inputs_BTF * real_BT1).sum(1, keepdim=True) / real_BT1.sum(1, keepdim=True)
    return torch.where(masked_BTF, mean_B1F, inputs_BTF)


def _stretches(n_masks: int, widest_B: Tensor, limit_B: Tensor, size: int) -> Tensor:
    """(B, size) bool: the union of `n_masks` stretches of 0..widest positions, each within 0..limit."""
    draws_2BM = torch.rand(2, len(widest_B), n_masks)
    width_BM = (draws_2BM[0] * (widest_B.unsqueeze(1) + 1)).long()
    start_BM = (draws_2BM[1] * (limit_B.unsqueeze(1) - width_BM + 1).clamp(min=0)).long()
    position = torch.arange(size).view(1, 1, -1)
    inside = (position >= start_BM.unsqueeze(2)) & (position < (start_BM + width_BM).unsqueeze(2))
    return inside.any(dim=1)
