"""What is done to log-mel features before the first convolution.

Shapes: B batch, T frames, F mel bins.
"""

from __future__ import annotations

import math
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layerdial.modules.subsampling import frame_mask

_LEAST_DEVIATION = 0.5  # for bins in which a corpus has no sound, such as those above a telephone's band
_LEAST_VARIANCE = 1e-2  # keeps digital silence and one-frame audio finite; real speech has a variance of 1 and more

_DECIBEL = math.log(10) / 10  # of an energy, in the features' natural logarithm
_VOICED = 30  # bins, up to 1 kHz, in which white noise has an eighth of its power and vowels have most of theirs
_HELD = 5  # frames, longer than a click with its windows and shorter than a vowel
_COUNTED_DB = (-28.0, -22.0)  # below the loudest: frames up to the first do not count, those from the second do
_OUTSIDE = 1e4  # louder than any frame


class UtteranceNorm(nn.Module):
    """Zero mean and unit variance of each mel bin over the real frames of each utterance; without state."""

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        mask_BT1 = frame_mask(lengths_B, x_BTF.shape[1]).unsqueeze(2)
        count_B11 = lengths_B.view(-1, 1, 1)
        x_BTF = x_BTF.float().masked_fill(~mask_BT1, 0.0)
        centred_BTF = (x_BTF - x_BTF.sum(1, keepdim=True) / count_B11).masked_fill(~mask_BT1, 0.0)
        variance_B1F = centred_BTF.square().sum(1, keepdim=True) / count_B11
        return centred_BTF * torch.rsqrt(variance_B1F + _LEAST_VARIANCE)


class SpeechNorm(nn.Module):
    """Zero mean and unit variance of each mel bin over the loud frames of each utterance; without state.

    A frame's energy is taken below 1 kHz, and as far as it is held for `_HELD` frames, which a click is not. Frames
    count by how far they lie below the loudest, so that pauses do not: silence, and white noise 20 dB below the speech.
    All parts have a form for streams: the loudest so far, and running sums over the frames that count.
    """

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        mask_BT1 = frame_mask(lengths_B, x_BTF.shape[1]).unsqueeze(2)
        x_BTF = x_BTF.float().masked_fill(~mask_BT1, 0.0)
        share_BT1 = loud_share(x_BTF, lengths_B).unsqueeze(2)
        count_B11 = share_BT1.sum(1, keepdim=True)
        centred_BTF = x_BTF - (x_BTF * share_BT1).sum(1, keepdim=True) / count_B11
        variance_B1F = (centred_BTF.square() * share_BT1).sum(1, keepdim=True) / count_B11
        return (centred_BTF * torch.rsqrt(variance_B1F + _LEAST_VARIANCE)).masked_fill(~mask_BT1, 0.0)


def loud_share(x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
    """Return how much each frame counts (B, T): 1 where it is nearly as loud as the speech, 0 in pauses and padding.

    At least one frame of each utterance counts whole.
    """
    energy_BT = _held(x_BTF[:, :, :_VOICED].logsumexp(2), lengths_B)
    lowest, highest = _COUNTED_DB
    below_BT = (energy_BT - energy_BT.amax(1, keepdim=True)) / _DECIBEL
    share_BT = ((below_BT - lowest) / (highest - lowest)).clamp(0.0, 1.0)
    return share_BT.masked_fill(~frame_mask(lengths_B, x_BTF.shape[1]), 0.0)


def _held(energy_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """Return the highest energy (B, T) that `_HELD` frames in a row have, this one among them: an opening.

    Where there are fewer frames, all of them together.
    """
    n_frames = energy_BT.shape[1]
    energy_BT = energy_BT.masked_fill(~frame_mask(lengths_B, n_frames), _OUTSIDE)
    quietest_BT = reduce(torch.minimum, _shifted(F.pad(energy_BT, (0, _HELD - 1), value=_OUTSIDE), n_frames))
    complete_BT = frame_mask((lengths_B - (_HELD - 1)).clamp(min=1), n_frames)
    quietest_BT = quietest_BT.masked_fill(~complete_BT, -_OUTSIDE)
    return reduce(torch.maximum, _shifted(F.pad(quietest_BT, (_HELD - 1, 0), value=-_OUTSIDE), n_frames))


def _shifted(padded_BT: Tensor, n_frames: int) -> list[Tensor]:
    """Return `_HELD` views (B, n_frames), each a frame later. (The exporter wants pooling to have a fixed length.)"""
    return [padded_BT.narrow(1, first, n_frames) for first in range(_HELD)]


class FixedNorm(nn.Module):
    """One shift and scale for each mel bin, from the training corpus, stored with the weights.

    What a frame becomes depends on that frame alone, so pauses do not move it, and a stream needs no past.
    """

    def __init__(self, n_mels: int) -> None:
        super().__init__()
        self.register_buffer("mean_F", torch.zeros(n_mels))
        self.register_buffer("scale_F", torch.ones(n_mels))

    def set_statistics(self, mean_F: Tensor, deviation_F: Tensor) -> None:
        """Take over the mean and the standard deviation of a corpus's features."""
        self.mean_F = mean_F.clone()
        self.scale_F = deviation_F.clamp(min=_LEAST_DEVIATION).reciprocal()

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        mask_BT1 = frame_mask(lengths_B, x_BTF.shape[1]).unsqueeze(2)
        return ((x_BTF.float() - self.mean_F) * self.scale_F).masked_fill(~mask_BT1, 0.0)
