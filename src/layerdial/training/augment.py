"""SpecAugment on the device, without a synchronisation.

Shapes: B batch, T frames, F mel bins, S samples, M masks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layerdial.audio.features import FRAMES_PER_SECOND
from layerdial.audio.files import SAMPLE_RATE
from layerdial.config.recipe import SpecAugmentConfig
from layerdial.modules.subsampling import frame_mask

FREQ_MASKS = 2


def mask_samples(inputs_BS: Tensor, lengths_B: Tensor, config: SpecAugmentConfig) -> Tensor:
    """The time masks of `spec_augment` for networks that take samples: stretches of silence, at the mean."""
    frame = SAMPLE_RATE // FRAMES_PER_SECOND
    in_samples = config.model_copy(update={"freq_masks": 0, "time_width": config.time_width * frame})
    return spec_augment(inputs_BS.unsqueeze(2), lengths_B, in_samples).squeeze(2)


def spec_augment(inputs_BTF: Tensor, lengths_B: Tensor, config: SpecAugmentConfig) -> Tensor:
    """Mask bands and stretches of time of each utterance, filled with its mean per bin (zero after normalisation).

    A stretch is at most `time_width` frames and at most `time_share` of the utterance. Draws come from torch's
    CPU generator, so they are the same on every device.
    """
    _, n_frames, n_mels = inputs_BTF.shape
    lengths_B = lengths_B.cpu()
    bins_B = torch.full_like(lengths_B, n_mels)
    widest_B = torch.full_like(lengths_B, min(config.freq_width, n_mels))
    freq_masks = FREQ_MASKS if config.freq_masks is None else config.freq_masks
    freq_2BM = _stretches(freq_masks, widest_B, bins_B)
    longest_B = (lengths_B * config.time_share).long().clamp(max=config.time_width)
    time_2BM = _stretches(config.time_masks, longest_B, lengths_B)
    # a few numbers travel, all in one copy; the masks are made where the inputs are
    numbers = torch.cat([freq_2BM.flatten(), time_2BM.flatten(), lengths_B]).to(inputs_BTF.device, non_blocking=True)
    freq, time, lengths_B = torch.split(numbers, [freq_2BM.numel(), time_2BM.numel(), len(lengths_B)])
    freq_BF, time_BT = _inside(freq.view_as(freq_2BM), n_mels), _inside(time.view_as(time_2BM), n_frames)
    masked_BTF = freq_BF.unsqueeze(1) | time_BT.unsqueeze(2)
    real_BT1 = frame_mask(lengths_B, n_frames).unsqueeze(2)
    mean_B1F = (inputs_BTF * real_BT1).sum(1, keepdim=True) / real_BT1.sum(1, keepdim=True)
    return torch.where(masked_BTF, mean_B1F, inputs_BTF)


def _stretches(n_masks: int, widest_B: Tensor, limit_B: Tensor) -> Tensor:
    """(2, B, M): first and end of `n_masks` stretches of 0..widest positions, each within 0..limit."""
    draws_2BM = torch.rand(2, len(widest_B), n_masks)
    width_BM = (draws_2BM[0] * (widest_B.unsqueeze(1) + 1)).long()
    start_BM = (draws_2BM[1] * (limit_B.unsqueeze(1) - width_BM + 1).clamp(min=0)).long()
    return torch.stack([start_BM, start_BM + width_BM])


def _inside(stretches_2BM: Tensor, size: int) -> Tensor:
    """(B, size) bool: which positions lie in any of the stretches of their row."""
    position = torch.arange(size, device=stretches_2BM.device)
    start_BM1, end_BM1 = stretches_2BM.unsqueeze(3).unbind(0)
    inside_BMS = (position >= start_BM1) & (position < end_BM1)
    return inside_BMS.any(dim=1)
