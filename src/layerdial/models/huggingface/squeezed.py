"""SEW and SEW-D: blocks over a time axis that is squeezed before them and stretched after them.

The library pools two frames into one, and a frame that is left over at the end gets an output of zeros. In a padded
batch it would pool that frame with padding. Here an utterance gets what it gets alone.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from layerdial.models.huggingface.ctc import BlocksAsOneLayer, SpeechTransformerCTC
from layerdial.modules.subsampling import frame_mask


class SqueezedBlocks(BlocksAsOneLayer):
    """The blocks as one layer, whose attention mask is that of whole pools of frames."""

    def forward(self, x_BTD: Tensor, *shared: Any, squeezed_B: Tensor | None = None, **rest: Any) -> Tensor:
        if squeezed_B is not None:
            mask_B11T = frame_mask(squeezed_B.clamp(min=1), x_BTD.shape[1])[:, None, None]
            if shared:  # SEW-D's blocks take it by position, as numbers
                shared = (mask_B11T.to(shared[0].dtype), *shared[1:])
            else:
                rest["attention_mask"] = mask_B11T
        return super().forward(x_BTD, *shared, **rest)


class SqueezedCTC(SpeechTransformerCTC):
    """SEW, and SEW-D, whose blocks have DeBERTa's attention."""

    @property
    def _factor(self) -> int:
        return int(self.encoder.config.squeeze_factor)

    def _before_encoder(self, inputs: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Return the encoder's input; in a padded batch with as many frames as make whole pools."""
        x_BTD = super()._before_encoder(inputs, lengths_B)
        return x_BTD if lengths_B is None else pad(x_BTD, (0, 0, 0, -x_BTD.shape[1] % self._factor))

    def _encode(self, inputs: Tensor, lengths_B: Tensor | None, for_blocks: dict[str, Any]) -> Tensor:
        if lengths_B is not None:
            squeezed_B = self._frames(inputs, lengths_B) // self._factor
            for_blocks = {**for_blocks, "squeezed_B": squeezed_B}
        return super()._encode(inputs, lengths_B, for_blocks)

    def _complete(self, x_BTD: Tensor, inputs: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Return an encoder's or exit's output (B, T', D) with a frame for each that went in, those left over zero."""
        frames = self.features.frames(inputs.shape[1])
        x_BTD = pad(x_BTD, (0, 0, 0, frames - x_BTD.shape[1]))
        if lengths_B is None:
            return x_BTD
        whole_B = self._frames(inputs, lengths_B) // self._factor * self._factor
        return x_BTD.masked_fill(~frame_mask(whole_B, frames).unsqueeze(2), 0.0)
