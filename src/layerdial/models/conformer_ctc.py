"""Conformer-CTC: front end, N dynamic blocks, a linear layer to the vocabulary.

Shapes: B batch, T frames, F mel bins, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layerdial.config import ConformerConfig
from layerdial.models.dynamic import DynamicEncoder
from layerdial.modules.attention import FrameContext, RotaryAttention
from layerdial.modules.conformer import ConformerBlock, Convolution, FeedForward
from layerdial.modules.subsampling import ConvSubsampling, UtteranceNorm, subsampled
from layerdial.subset import BlockSubset


class ConformerCTC(nn.Module):
    """A dynamic Conformer with a CTC head. Which blocks run is an argument of every call."""

    def __init__(self, config: ConformerConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.normalise = UtteranceNorm()
        self.front_end = ConvSubsampling(config.n_mels, config.width, config.dropout)
        self.encoder = DynamicEncoder((conformer_block(config) for _ in range(config.n_blocks)), config.skip)
        self.norm = nn.Identity() if config.block_norm else nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, vocab_size)
        self.apply(_initialise)

    @property
    def n_blocks(self) -> int:
        return len(self.encoder.blocks)

    def forward(self, inputs_BTF: Tensor, lengths_B: Tensor, subset: BlockSubset) -> tuple[Tensor, Tensor]:
        """Log-mel (B, T, F) -> log-probabilities (B, ceil(T/4), V) in float32, and their valid lengths (B,)."""
        with torch.autocast(inputs_BTF.device.type, enabled=False):
            normalised_BTF = self.normalise(inputs_BTF, lengths_B)
        x_BTD = self.front_end(normalised_BTF, lengths_B)
        lengths_B = subsampled(lengths_B)
        head_width = self.config.width // self.config.heads
        context = FrameContext.make(lengths_B, x_BTD.shape[1], head_width, x_BTD.dtype)
        x_BTD = self.encoder(x_BTD, context, subset)
        return self.head(self.norm(x_BTD)).float().log_softmax(dim=-1), lengths_B


def conformer_block(config: ConformerConfig) -> ConformerBlock:
    """One block with the numbers of `config`."""
    return ConformerBlock(
        attention=RotaryAttention(config.width, config.heads, config.dropout),
        convolution=Convolution(config.width, config.kernel, config.dropout, config.conv_norm == "batch"),
        ff_in=FeedForward(config.width, config.ffn_width, config.dropout),
        ff_out=FeedForward(config.width, config.ffn_width, config.dropout),
        norm=nn.LayerNorm(config.width) if config.block_norm else nn.Identity(),
    )


def _initialise(module: nn.Module) -> None:
    """Xavier for linear layers: with torch's smaller default, CTC stays with the blank several times as long."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
