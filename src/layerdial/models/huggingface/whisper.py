"""Whisper (arXiv 2212.04356) as a dynamic network: an encoder whose blocks are left out, a decoder that writes tokens.

The library's modules do all the computing. Two differences to its own forward pass: the encoder takes audio as long as
it is, where the library takes 30 s alone; and its blocks, like the decoder's, are one layer that runs the kept ones.

Shapes: B batch, T mel frames, T' encoder frames, F mel bins, D width, U labels, P tokens of the prompt, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from layerdial.audio.features import WhisperMel
from layerdial.audio.whisper_mel import check_length, silence
from layerdial.config.network import HuggingFaceConfig
from layerdial.models.dynamic import Choice, run_blocks
from layerdial.models.huggingface.ctc import BlocksAsOneLayer, silence_transformers, switch_checkpointing
from layerdial.models.huggingface.whisper_encoder import before_blocks, longest_input
from layerdial.models.network import EncoderOutput, Network
from layerdial.models.tensors import disk_errors
from layerdial.modules.subsampling import frame_mask
from layerdial.subset import BlockSubset
from layerdial.text.labels import TokenLabels
from layerdial.text.prompt import DecoderUse
from layerdial.text.speech_rate import usual_text

FreezeDecoder = Literal["none", "embeddings", "all"]


@dataclass(frozen=True)
class Memory:
    """The encoder's output (B, T', D), and which of its frames are real: (B, 1, 1, T') bool, none where all are."""

    states_BTD: Tensor
    mask_B11T: Tensor | None

    def of(self, row: int) -> Memory:
        """Return the memory of one utterance of the batch."""
        one = slice(row, row + 1)
        return Memory(self.states_BTD[one], None if self.mask_B11T is None else self.mask_B11T[one])

    def of_rows(self, count: int) -> Memory:
        """Return the memory of one utterance for `count` transcripts of it."""
        mask_B11T = self.mask_B11T
        expanded = None if mask_B11T is None else mask_B11T.expand(count, -1, -1, -1)
        return Memory(self.states_BTD.expand(count, -1, -1), expanded)


class DecoderBlocksAsOneLayer(BlocksAsOneLayer):
    """The decoder's blocks as one layer, with a mask for the encoder's frames, which the library's forward has not."""

    def forward(  # type: ignore[override]
        self,
        x_BUD: Tensor,
        causal_mask: Tensor | None,
        memory_BTD: Tensor,
        *,
        subset: Choice,
        memory_mask: Tensor | None,
        encoder_attention_mask: None = None,
        **rest: Any,
    ) -> Tensor:
        rest["encoder_attention_mask"] = memory_mask
        return self._run(x_BUD, subset, lambda block, x_BUD: block(x_BUD, causal_mask, memory_BTD, **rest), None)


class WhisperNetwork(Network):
    """A Whisper checkpoint. `prompt` are the tokens before a transcript: start, language, task, no timestamps.

    With `pads_input` audio is followed by silence up to 30 s, which is how published checkpoints were trained; networks
    that are trained here take it as long as it is. `decoder_use` is how the decoder is called unless a call says it.
    """

    def __init__(self, model: PreTrainedModel, features: WhisperMel, prompt: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.features = features
        _make_dynamic(model.model.encoder, BlocksAsOneLayer)
        _make_dynamic(model.model.decoder, DecoderBlocksAsOneLayer)
        self.decoder_use = DecoderUse(tuple(prompt), BlockSubset.full(len(self.decoder.layers.blocks)))
        self.labels = TokenLabels(self.most_tokens, model.config.eos_token_id)
        if model.config.tie_word_embeddings:
            self.register_state_dict_post_hook(_leave_out_tied)  # type: ignore[no-untyped-call]
            self.register_load_state_dict_pre_hook(_put_back_tied)  # type: ignore[no-untyped-call]
        self.train(model.training)

    @property
    def encoder(self) -> Any:
        """The library's encoder."""
        return self.model.model.encoder

    @property
    def decoder(self) -> Any:
        """The library's decoder."""
        return self.model.model.decoder

    @property
    def head(self) -> nn.Module:  # type: ignore[override]
        return self.model.proj_out  # type: ignore[no-any-return]

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.encoder.layers.blocks  # type: ignore[no-any-return]

    @property
    def most_tokens(self) -> int:
        """The most tokens that the decoder can write behind the prompt."""
        return self.model.config.max_target_positions - len(self.decoder_use.prompt)  # type: ignore[no-any-return]

    @property
    def pads_input(self) -> bool:
        return not getattr(self.model.config, "takes_any_length", False)

    @pads_input.setter
    def pads_input(self, padded: bool) -> None:
        self.model.config.takes_any_length = not padded

    def forward(
        self,
        inputs: Tensor,
        lengths_B: Tensor,
        subset: Choice,
        exits: Sequence[int] = (),
        tokens_BU: Tensor | None = None,
    ) -> EncoderOutput:
        """Return log-probabilities (B, U, V) of the labels `tokens_BU`, each given those before it; see `Network`.

        Without labels as many tokens are decoded as speech of that length has, about: for counts and timings.
        """
        memory, others = self.encode(inputs, lengths_B, subset, exits)
        frames_B = self.features.frames(lengths_B)
        if tokens_BU is None:
            n_tokens = usual_text(self.most_tokens, inputs.shape[1] / self.features.per_second)
            return EncoderOutput(self._decode_steps(memory, n_tokens), frames_B)
        exits_BUV = tuple(self.score(other, tokens_BU) for other in others)
        return EncoderOutput(self.score(memory, tokens_BU), frames_B, exits_BUV)

    def encode(
        self, inputs: Tensor, lengths_B: Tensor, subset: Choice, exits: Sequence[int] = ()
    ) -> tuple[Memory, list[Memory]]:
        """Run the blocks of `subset` on log-mel (B, T, F). Each number n in `exits` adds the output after n of them.

        Raises `UserError` for more than the encoder takes: 30 s.
        """
        longest = longest_input(self.encoder)
        check_length(inputs.shape[1], longest)
        if self.pads_input:
            inputs, lengths_B = pad_with_silence(inputs, lengths_B, longest)
        unknown = lengths_B.device.type != "cpu" or torch.compiler.is_exporting()
        padded = unknown or bool((lengths_B != inputs.shape[1]).any())
        x_BTD, mask_B11T = before_blocks(self.encoder, inputs, lengths_B if padded else None)

        def run(block: nn.Module, x_BTD: Tensor) -> Tensor:
            return block(x_BTD, mask_B11T)  # type: ignore[no-any-return]

        x_BTD, states = run_blocks(self.blocks, x_BTD, subset, run, keep_states=bool(exits))
        normed = [self.encoder.layer_norm(state) for state in [x_BTD, *(states[n - 1] for n in exits)]]
        memory, *others = (Memory(state_BTD, mask_B11T) for state_BTD in normed)
        return memory, others

    def score(self, memory: Memory, tokens_BU: Tensor) -> Tensor:
        """Return the log-probabilities (B, U, V) of labels, each given those before it (teacher forcing)."""
        prompt_BP = self._prompts(len(tokens_BU), tokens_BU.device)
        inputs = torch.cat([prompt_BP, tokens_BU[:, :-1]], dim=1)
        x_BUD = self._decode(inputs, memory, None, 0)[:, prompt_BP.shape[1] - 1 :]
        return self._log_probs(x_BUD)

    def next_token(
        self,
        tokens_BU: Tensor,
        memory: Memory,
        cache: EncoderDecoderCache,
        n_before: int,
        use: DecoderUse | None = None,
    ) -> Tensor:
        """Return logits (B, U, V) in float32 after each of `tokens_BU`, which follow `n_before` tokens in `cache`."""
        x_BUD = self._decode(tokens_BU, memory, cache, n_before, use)
        return self.model.proj_out(x_BUD).float()  # type: ignore[no-any-return]

    def _decode(
        self,
        tokens_BU: Tensor,
        memory: Memory,
        cache: EncoderDecoderCache | None,
        n_before: int,
        use: DecoderUse | None = None,
    ) -> Tensor:
        positions_1U = torch.arange(n_before, n_before + tokens_BU.shape[1], device=tokens_BU.device).unsqueeze(0)
        return self.decoder(  # type: ignore[no-any-return]
            tokens_BU,
            encoder_hidden_states=memory.states_BTD,
            past_key_values=cache,
            use_cache=cache is not None,
            position_ids=positions_1U,
            subset=(use or self.decoder_use).subset,
            memory_mask=memory.mask_B11T,
        ).last_hidden_state

    def _log_probs(self, x_BUD: Tensor) -> Tensor:
        return self.model.proj_out(x_BUD).float().log_softmax(dim=-1)  # type: ignore[no-any-return]

    def _decode_steps(self, memory: Memory, n_tokens: int) -> Tensor:
        """Return log-probabilities (B, N, V) of `n_tokens` steps that each repeat a token: the cost of decoding."""
        cache, found = new_cache(), list[Tensor]()
        tokens_BU = self._prompts(len(memory.states_BTD), memory.states_BTD.device)
        n_before = 0
        for _ in range(n_tokens):
            x_BUD = self._decode(tokens_BU, memory, cache, n_before)
            found.append(self._log_probs(x_BUD[:, -1:]))
            n_before += tokens_BU.shape[1]
            tokens_BU = tokens_BU[:, -1:]
        return torch.cat(found, dim=1)

    def _prompts(self, batch: int, device: torch.device) -> Tensor:
        return torch.tensor(self.decoder_use.prompt, device=device).expand(batch, -1)

    def prepare_training(self, settings: HuggingFaceConfig) -> None:
        """Freeze what the recipe says, recompute blocks in the backward pass if it says so, and take any length."""
        self.pads_input = False
        self.encoder.embed_positions.requires_grad_(False)  # sinusoids, which the library thaws when it loads weights
        if settings.freeze_front_end:
            self.encoder.conv1.requires_grad_(False)
            self.encoder.conv2.requires_grad_(False)
        if settings.freeze_decoder == "all":
            self.decoder.requires_grad_(False)
        if settings.freeze_decoder != "none":  # which are the output layer too
            self.decoder.embed_tokens.requires_grad_(False)
        switch_checkpointing(self.model, settings.gradient_checkpointing)

    def save(self, folder: Path) -> None:
        with disk_errors(folder), silence_transformers():
            self.model.save_pretrained(folder)


def new_cache() -> EncoderDecoderCache:
    """Return an empty cache of keys and values, for the decoder's own tokens and for the encoder's frames."""
    return EncoderDecoderCache(DynamicCache(), DynamicCache())


def pad_with_silence(inputs: Tensor, lengths_B: Tensor, n_frames: int) -> tuple[Tensor, Tensor]:
    """Return log-mel (B, n_frames, F) of utterances followed by silence, as of padded audio, and the new lengths."""
    real_BT1 = frame_mask(lengths_B.to(inputs.device, non_blocking=True), inputs.shape[1]).unsqueeze(2)
    loudest_B11 = inputs.masked_fill(~real_BT1, -torch.inf).amax(dim=(1, 2), keepdim=True)
    silence_B11 = silence(loudest_B11)
    padded = silence_B11.expand(-1, n_frames, inputs.shape[2]).clone()
    padded[:, : inputs.shape[1]] = torch.where(real_BT1, inputs, silence_B11)
    return padded, torch.full_like(lengths_B, n_frames)


def _make_dynamic(part: Any, layers: type[BlocksAsOneLayer]) -> None:
    """Make the encoder or decoder dynamic in place, with its own layer drop switched off."""
    part.layers = layers(part.layers)
    part.layerdrop = 0.0


_TIED, _TIED_TO = "model.proj_out.weight", "model.model.decoder.embed_tokens.weight"


def _leave_out_tied(network: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Leave the output layer out of a state dict: its weights are the token embeddings', and files hold them once."""
    state.pop(prefix + _TIED, None)


def _put_back_tied(network: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    if prefix + _TIED_TO in state:
        state[prefix + _TIED] = state[prefix + _TIED_TO]
