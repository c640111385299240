"""Hugging Face CTC models as dynamic networks; `families.py` has a row for each.

The library's modules do all the computing. Its encoder iterates over its list of layers; here that list yields one
layer, which runs the kept blocks. The subset gets there as a keyword argument of the encoder's own forward. So does the
list of the stream's states after each block, where exits need it. Names and weights stay as they were, so
`save_pretrained` writes an ordinary checkpoint.

Shapes: B batch, S samples, T frames, F mel bins, C channels, D width, V vocabulary, H heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging as library_logging

from layerdial.audio.features import Features, frames_after
from layerdial.config.network import HuggingFaceConfig
from layerdial.errors import UserError
from layerdial.models.dynamic import BlockFn, Choice, run_blocks
from layerdial.models.huggingface.adapters import adapter_of, convolutions_after
from layerdial.models.huggingface.padding import zero_padding
from layerdial.models.huggingface.parts import Parts, part, parts_in
from layerdial.models.network import EncoderOutput, Network
from layerdial.models.tensors import disk_errors
from layerdial.modules.subsampling import frame_mask


class BlocksAsOneLayer(nn.Module):
    """The blocks under their own names, in the place of an encoder's list of layers.

    Iterating over it yields one layer, itself, which runs the kept blocks.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        for i, block in enumerate(blocks):
            self.add_module(str(i), block)

    @property
    def blocks(self) -> list[nn.Module]:
        return [block for block in self._modules.values() if block is not None]

    def __iter__(self) -> Iterator[nn.Module]:
        yield self

    def forward(
        self,
        x_BTD: Tensor,
        *shared: Any,
        subset: Choice,
        states: list[Tensor] | None = None,
        span: range | None = None,
        **rest: Any,
    ) -> Tensor:
        return self._run(x_BTD, subset, lambda block, x_BTD: block(x_BTD, *shared, **rest), states, span)

    def _run(
        self, x_BTD: Tensor, subset: Choice, run: BlockFn, states: list[Tensor] | None, span: range | None = None
    ) -> Tensor:
        """Run the kept blocks. States are appended to the caller's list, as the library returns the stream alone."""
        x_BTD, found = run_blocks(self.blocks, x_BTD, subset, run, keep_states=states is not None, span=span)
        if states is not None:
            states += found
        return x_BTD


class WavLMBlocksAsOneLayer(BlocksAsOneLayer):
    """WavLM's blocks as one layer, with the relative position bias computed before them.

    The library computes the bias inside block 0. Its table stays among block 0's weights. The gate that each block
    applies to the bias stays in the block.
    """

    def forward(  # type: ignore[override]
        self,
        x_BTD: Tensor,
        *,
        subset: Choice,
        states: list[Tensor] | None = None,
        attention_mask: Tensor | None = None,
        **rest: Any,
    ) -> tuple[Tensor, Tensor]:
        batch, frames, _ = x_BTD.shape
        bias_HTT = self.blocks[0].attention.compute_bias(frames, frames)  # type: ignore[operator, union-attr]
        shared = {"attention_mask": attention_mask, "position_bias": bias_HTT.repeat(batch, 1, 1)}
        return self._run(x_BTD, subset, lambda block, x_BTD: block(x_BTD, **shared)[0], states), bias_HTT


class RotaryBlocksAsOneLayer(BlocksAsOneLayer):
    """LASR's blocks as one layer, with the rotary positions of the one row repeated for each utterance.

    The exporter makes one node of the rotation, which does not broadcast over the batch.
    """

    def forward(self, x_BTD: Tensor, *, position_embeddings: tuple[Tensor, Tensor], **rest: Any) -> Tensor:  # type: ignore[override]
        positions = tuple(row_1TD.expand(x_BTD.shape[0], -1, -1) for row_1TD in position_embeddings)
        return super().forward(x_BTD, position_embeddings=positions, **rest)


class HuggingFaceCTC(Network):
    """The base of the Hugging Face networks. `model` is the library's, `blank` its id of the blank.

    The model is made dynamic in place: from then on it runs only through this network. Its own layer drop is switched
    off, since the drop policy decides. Batch norms keep their statistics, which depths must not share. `parts` says
    where its parts are.
    """

    def __init__(self, model: PreTrainedModel, features: Features, blank: int, parts: Parts) -> None:
        super().__init__()
        self.model = model
        self.features = features
        self.blank = blank
        self.parts = parts
        blocks = list(parts.blocks_of(model))
        parts.replace_blocks(model, self._as_one_layer(blocks))
        self._switch_off_layer_drop()
        for block in blocks if parts.zeroed else ():
            zero_padding(part(block, parts.masked), parts_in(block, parts.zeroed))
        if parts.zeroed_before:
            zero_padding(self.encoder, parts_in(self.encoder, parts.zeroed_before))
        self.train(model.training)

    def _as_one_layer(self, blocks: Iterable[nn.Module]) -> nn.Module:
        return (self.parts.blocks_as or BlocksAsOneLayer)(blocks)

    def _switch_off_layer_drop(self) -> None:
        """Set the rate to zero in the config, and where an encoder keeps a copy of it."""
        for owner in (self.encoder.config, self.encoder):
            if hasattr(owner, "layerdrop"):
                owner.layerdrop = 0.0

    @property
    def encoder(self) -> Any:
        """The library's encoder, which calls the blocks."""
        return self.parts.encoder_of(self.model)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.parts.blocks_of(self.model).blocks  # type: ignore[no-any-return]

    @property
    def head(self) -> nn.Module:  # type: ignore[override]
        return getattr(self.model, self.parts.head)  # type: ignore[no-any-return]

    def forward(self, inputs: Tensor, lengths_B: Tensor, subset: Choice, exits: Sequence[int] = ()) -> EncoderOutput:
        """Run the blocks of `subset` on samples (B, S) or the model's own log-mel (B, T, F); see `Network`.

        An utterance's output does not depend on the others in its batch. When `lengths_B` is on the CPU and nothing is
        padded, no mask is made.
        """
        unknown = lengths_B.device.type != "cpu" or torch.compiler.is_exporting()
        padded = unknown or bool((lengths_B != inputs.shape[1]).any())
        states: list[Tensor] = []
        # the list only where exits need it: it keeps the stream after every block in memory
        for_blocks = {"subset": subset, "states": states} if exits else {"subset": subset}
        real_B = lengths_B if padded else None
        encoded_BTD = self._encode(inputs, real_B, for_blocks)
        left = [*(self._leave_encoder(states[n - 1]) for n in exits), encoded_BTD]
        *exits_BTV, log_probs_BTV = [self._classify(self._complete(x_BTD, inputs, real_B)) for x_BTD in left]
        return EncoderOutput(log_probs_BTV, self.features.frames(lengths_B), tuple(exits_BTV))

    def _encode(self, inputs: Tensor, lengths_B: Tensor | None, for_blocks: dict[str, Any]) -> Tensor:
        """Return the encoder's output (B, T', D). `for_blocks`: keyword arguments for the library's forward."""
        raise NotImplementedError

    def _leave_encoder(self, x_BTD: Tensor) -> Tensor:
        """Apply what the library's encoder applies after its last block, for some a norm."""
        parts, config = self.parts, self.encoder.config
        if not parts.after or not getattr(config, parts.after_if or "_", True):
            return x_BTD
        return getattr(self.encoder, parts.after)(x_BTD)  # type: ignore[no-any-return]

    def _complete(self, x_BTD: Tensor, inputs: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Return an encoder's or an exit's output as the head takes it: as it is, unless a model says otherwise."""
        return x_BTD

    def _classify(self, x_BTD: Tensor) -> Tensor:
        """Return log-probabilities (B, T', V), the blank first."""
        return self._blank_first(_at_least_float32(self.head(x_BTD))).log_softmax(dim=-1)

    def _blank_first(self, logits_BTV: Tensor) -> Tensor:
        if self.blank == 0:
            return logits_BTV
        before, blank, after = logits_BTV.tensor_split([self.blank, self.blank + 1], dim=-1)
        return torch.cat([blank, before, after], dim=-1)

    def train(self, mode: bool = True) -> HuggingFaceCTC:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        return self

    def prepare_training(self, settings: HuggingFaceConfig) -> None:
        """Freeze the front end's convolutions, and recompute blocks in the backward pass, each if asked to.

        Raises `UserError` for a decoder that is to be frozen: there is none.
        """
        if settings.freeze_decoder is not None:
            raise UserError("model.freeze_decoder is for encoder-decoder models such as Whisper; leave it out")
        if settings.freeze_front_end:
            self.front_end.requires_grad_(False)
        switch_checkpointing(self.model, settings.gradient_checkpointing)

    @property
    def front_end(self) -> nn.Module:
        """The convolutions before the blocks; an empty list where there are none."""
        parts = self.parts
        return part(parts.base_of(self.model), parts.front_end) if parts.front_end else nn.ModuleList()  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        with disk_errors(folder), silence_transformers():
            self.model.save_pretrained(folder)


class SpeechTransformerCTC(HuggingFaceCTC):
    """wav2vec2 and its relatives: convolutions over samples, blocks, a linear head.

    Or log-mel without convolutions (wav2vec2-BERT).
    """

    def __init__(self, model: PreTrainedModel, features: Features, blank: int, parts: Parts) -> None:
        super().__init__(model, features, blank, parts)
        base = parts.base_of(model)
        if hasattr(base, "masked_spec_embed"):
            base.masked_spec_embed.requires_grad_(False)  # part of the library's SpecAugment, unused here
        self._adapter = adapter_of(base, parts.adapted, convolutions_after(model.config))

    def prepare_training(self, settings: HuggingFaceConfig) -> None:
        super().prepare_training(settings)
        if settings.freeze_front_end and self.parts.front_end:
            self.model.freeze_feature_encoder()  # its input then needs no gradients either

    def _encode(self, inputs: Tensor, lengths_B: Tensor | None, for_blocks: dict[str, Any]) -> Tensor:
        x_BTD = self._before_encoder(inputs, lengths_B)
        mask_BT = None if lengths_B is None else frame_mask(self._frames(inputs, lengths_B), x_BTD.shape[1])
        self._forget_positions()
        return self.encoder(x_BTD, attention_mask=mask_BT, **for_blocks).last_hidden_state  # type: ignore[no-any-return]

    def _before_encoder(self, inputs: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Return the encoder's input (B, T', D)."""
        base = self.parts.base_of(self.model)
        x_BTD = self._convolve(inputs, lengths_B).transpose(1, 2) if self.parts.front_end else inputs
        for name in self.parts.before:
            if hasattr(base, name):
                made = getattr(base, name)(x_BTD)
                x_BTD = made[0] if isinstance(made, tuple) else made  # HuBERT's returns the projection alone
        return x_BTD

    def _frames(self, inputs: Tensor, lengths_B: Tensor) -> Tensor:
        """Return the real frames of each utterance (B,) that enter the encoder, on the device."""
        after = len(convolutions_after(self.model.config))
        convolutions = self.features.convolutions  # type: ignore[attr-defined]
        frames_B = frames_after(convolutions[: len(convolutions) - after], lengths_B)
        return frames_B.to(inputs.device, non_blocking=True)

    def _complete(self, x_BTD: Tensor, inputs: Tensor, lengths_B: Tensor | None) -> Tensor:
        if self._adapter is None:
            return x_BTD
        return self._adapter(x_BTD, None if lengths_B is None else self._frames(inputs, lengths_B))

    def _forget_positions(self) -> None:
        """Drop rotary positions that the library keeps from call to call, whatever mode and precision they had."""
        positions: Any = getattr(self.encoder, "embed_positions", None)
        if hasattr(positions, "cached_rotary_positional_embedding"):
            positions.cached_rotary_positional_embedding = positions.cached_sequence_length = None

    def _classify(self, x_BTD: Tensor) -> Tensor:
        return super()._classify(self.model.dropout(x_BTD))

    def _convolve(self, inputs_BS: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Return the output (B, C, T) of the front end's convolutions.

        Padding affects a frame only through a group norm, whose statistics run over time. So a group norm is computed
        over the real frames alone.
        """
        convolutions = self.front_end.conv_layers
        first, *others = convolutions  # type: ignore[misc]
        norm = getattr(first, "layer_norm", None)
        if lengths_B is None or not isinstance(norm, nn.GroupNorm):
            return self.front_end(inputs_BS)  # type: ignore[no-any-return]
        kernel, stride, _ = self.features.convolutions[0]  # type: ignore[attr-defined]
        frames_B = ((lengths_B - kernel) // stride + 1).to(inputs_BS.device, non_blocking=True)
        x_BCT = first.activation(norm_over_real_frames(norm, first.conv(inputs_BS.unsqueeze(1)), frames_B))
        for convolution in others:
            x_BCT = convolution(x_BCT)
        return x_BCT  # type: ignore[no-any-return]


class FastConformerCTC(HuggingFaceCTC):
    """Parakeet and its relatives: an encoder that takes log-mel, with the strided convolutions in it."""

    def _encode(self, inputs: Tensor, lengths_B: Tensor | None, for_blocks: dict[str, Any]) -> Tensor:
        mask_BT = None
        if lengths_B is not None:
            mask_BT = frame_mask(lengths_B.to(inputs.device, non_blocking=True), inputs.shape[1])
        encoded = self.encoder(input_features=inputs, attention_mask=mask_BT, **for_blocks)
        return encoded.last_hidden_state  # type: ignore[no-any-return]


def switch_checkpointing(model: PreTrainedModel, on: bool) -> None:
    """Recompute blocks in the backward pass, or do not: some checkpoints' configs switch it on."""
    # the method's name: from version 5.23 on, and before
    called = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if on:
        keywords = {f"{called}_checkpointing_kwargs": {"use_reentrant": False}}
        getattr(model, f"{called}_checkpointing_enable")(**keywords)
    else:
        getattr(model, f"{called}_checkpointing_disable")()


def norm_over_real_frames(norm: nn.GroupNorm, x_BCT: Tensor, frames_B: Tensor) -> Tensor:
    """Apply a group norm of one channel a group (wav2vec2's), with mean and variance over each utterance's real frames.

    Padding frames get finite values, which are not used later.
    """
    x_BCT = _at_least_float32(x_BCT)
    real_BT = frame_mask(frames_B, x_BCT.shape[2])
    with torch.autocast(x_BCT.device.type, enabled=False):  # sums over thousands of frames
        sum_BC1 = torch.bmm(x_BCT, real_BT.unsqueeze(2).to(x_BCT.dtype))
    mean_BC1 = sum_BC1 / frames_B.view(-1, 1, 1)
    centred_BCT = (x_BCT - mean_BC1).masked_fill_(~real_BT.unsqueeze(1), 0.0)  # in place: these tensors are large
    variance_BC1 = torch.linalg.vector_norm(centred_BCT, dim=2, keepdim=True).square() / frames_B.view(-1, 1, 1)
    scale_BC1 = torch.rsqrt(variance_BC1 + norm.eps) * norm.weight.view(1, -1, 1)
    return torch.addcmul(norm.bias.view(1, -1, 1), centred_BCT, scale_BC1)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


@contextmanager
def silence_transformers() -> Iterator[None]:
    """Disable the library's progress bars and reports inside the context: what they report is checked here."""
    level, bars = library_logging.get_verbosity(), library_logging.is_progress_bar_enabled()
    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
    try:
        yield
    finally:
        library_logging.set_verbosity(level)
        if bars:
            library_logging.enable_progress_bar()
