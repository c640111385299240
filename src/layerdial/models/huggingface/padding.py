"""Padding frames set to zero where a convolution of the library would read them, by hooks and not by changed code.

A convolution pads the end of an utterance with zeros. In a padded batch it reads the padding frames instead, which are
no longer zero after the first norm or bias. With them at zero, an utterance gets what it gets alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import get_ident
from typing import Any

from torch import Tensor, nn


class RealFrames:
    """Which frames that enter some convolutions are real: while a thread has set that, their padding becomes zero."""

    def __init__(self, convolutions: Sequence[nn.Module]) -> None:
        self._masks: dict[int, Tensor] = {}  # by thread, as several may run one model
        for convolution in convolutions:
            convolution.register_forward_pre_hook(self._zero)

    def set(self, mask_BT: Tensor | None) -> None:
        """Say which frames are real in what this thread computes; none says that all are."""
        if mask_BT is None:
            self._masks.pop(get_ident(), None)
        else:
            self._masks[get_ident()] = mask_BT

    def set_from(self, masked: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        """Take the mask that a module is about to be called with; a hook."""
        self.set(_frames_of(keywords.get("attention_mask")))

    def clear(self, convolution: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        """Forget it; a hook."""
        self.set(None)

    def _zero(self, convolution: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Return the convolution's input (B, C, T) with its padding frames at zero; a hook."""
        mask_BT = self._masks.get(get_ident())
        if mask_BT is None:
            return None
        x_BCT, *rest = arguments
        return x_BCT.masked_fill(~mask_BT.unsqueeze(1), 0.0), *rest


def zero_padding(masked: nn.Module, convolutions: Sequence[nn.Module]) -> None:
    """Zero the padding in the inputs of `convolutions`, which run after `masked` is called with an `attention_mask`.

    The mask is (B, T), true or 1 for real frames, or (B, 1, T or 1, T) as the library's attention takes it. For
    convolutions of a block, `masked` is inside it: hooks of a block do not run when it is computed again.
    """
    frames = RealFrames(convolutions)
    masked.register_forward_pre_hook(frames.set_from, with_kwargs=True)
    convolutions[-1].register_forward_hook(frames.clear)


def _frames_of(mask: Tensor | None) -> Tensor | None:
    """Return which frames are real (B, T) from a mask of an encoder or of attention."""
    if mask is None or mask.ndim == 2:
        return mask if mask is None else mask.bool()
    row_BT = mask[:, 0, 0]
    return row_BT if not row_BT.is_floating_point() else row_BT == 0
