"""Padding frames set to zero where a convolution of the library would read them, by hooks and not by changed code.

A convolution pads the end of an utterance with zeros. In a padded batch it reads the padding frames instead, which are
no longer zero after the first norm or bias. With them at zero, an utterance gets what it gets alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn


class RealFrames:
    """Which frames that enter some convolutions are real: their padding is set to zero while a mask is noted.

    Its methods are torch's hooks.
    """

    def __init__(self, convolutions: Sequence[nn.Module]) -> None:
        self.mask_BT: Tensor | None = None
        for convolution in convolutions:
            convolution.register_forward_pre_hook(self.zero)

    def note(self, masked: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        """Note the mask of a module that is about to run."""
        self.mask_BT = _frames_of(keywords.get("attention_mask"))

    def forget(self, convolution: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        self.mask_BT = None

    def zero(self, convolution: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Return the convolution's input (B, C, T) with its padding frames at zero."""
        if self.mask_BT is None:
            return None
        x_BCT, *rest = arguments
        return x_BCT.masked_fill(~self.mask_BT.unsqueeze(1), 0.0), *rest


def zero_padding(masked: nn.Module, convolutions: Sequence[nn.Module]) -> None:
    """Zero the padding in the inputs of `convolutions`, which run after `masked` is called with an `attention_mask`.

    The mask is (B, T), true or 1 for real frames, or (B, 1, T or 1, T) as the library's attention takes it. For
    convolutions of a block, `masked` is inside it: hooks of a block do not run when it is computed again.
    """
    frames = RealFrames(convolutions)
    masked.register_forward_pre_hook(frames.note, with_kwargs=True)
    convolutions[-1].register_forward_hook(frames.forget)


def _frames_of(mask: Tensor | None) -> Tensor | None:
    """Return which frames are real (B, T) from a mask of an encoder or of attention."""
    if mask is None or mask.ndim == 2:
        return mask if mask is None else mask.bool()
    row_BT = mask[:, 0, 0]
    return row_BT if not row_BT.is_floating_point() else row_BT == 0
