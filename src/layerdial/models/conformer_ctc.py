"""Conformer-CTC: front end, N dynamic blocks, a linear layer to the vocabulary.

Shapes: B batch, T frames, F mel bins, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layerdial.audio.features import LogMel
from layerdial.audio.kaldi_fbank import N_MELS
from layerdial.config.network import ConformerConfig
from layerdial.config.old_keys import without_gone
from layerdial.config.strict import parse
from layerdial.models.description import check_frame_rate, read_description, tokenizer_of
from layerdial.models.dynamic import Choice, DynamicEncoder, Gates, check_blocks
from layerdial.models.network import Blueprint, EncoderOutput, Network
from layerdial.models.tensors import load_weights
from layerdial.modules.attention import FrameContext, RotaryAttention
from layerdial.modules.chunks import seeing_chunks
from layerdial.modules.conformer import ConformerBlock, Convolution, FeedForward
from layerdial.modules.normalisation import FixedNorm, SpeechNorm, UtteranceNorm
from layerdial.modules.selector import InputSelector, LearnedScores
from layerdial.modules.subsampling import SUBSAMPLING, ConvSubsampling
from layerdial.subset import ChunkSchedule, SelectorDepth
from layerdial.text.tokenizer import Tokenizer


class ConformerCTC(Network):
    """A dynamic Conformer with a CTC head. Which blocks run is an argument of every call."""

    features = LogMel(SUBSAMPLING)

    def __init__(self, config: ConformerConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.blueprint = Blueprint(config, vocab_size)
        self.skip = config.skip
        self.normalise = _make_normalisation(config)
        self.front_end = ConvSubsampling(N_MELS, config.width, config.dropout)
        self.encoder = DynamicEncoder((conformer_block(config) for _ in range(config.n_blocks)), config.skip)
        self.norm = _final_norm(config)
        self.head = nn.Linear(config.width, vocab_size)
        self.exit_heads = nn.ModuleList(
            nn.Sequential(_final_norm(config), nn.Linear(config.width, vocab_size))
            for _ in range(config.n_blocks - 1 if config.exit_heads else 0)
        )
        self.feedback = nn.Linear(vocab_size, config.width) if config.self_condition else None
        self.selector = _make_selector(config)
        self.apply(_initialise)
        if config.normalise == "fixed":
            self.front_end.begin_without_level()

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return list(self.encoder.blocks)

    @property
    def optional_heads(self) -> Sequence[nn.Module]:
        return [*self.exit_heads, self.norm, self.head] if self.config.exit_heads else []

    def forward(
        self, inputs_BTF: Tensor, lengths_B: Tensor, subset: Choice, exits: Sequence[int] = ()
    ) -> EncoderOutput:
        """Run the blocks of `subset` on log-mel (B, T, F), which gives T' = ceil(T/4) frames. See `Network`."""
        lengths_B = lengths_B.to(inputs_BTF.device, non_blocking=True)
        with torch.autocast(inputs_BTF.device.type, enabled=False):
            normalised_BTF = self.normalise(inputs_BTF, lengths_B)
        x_BTD = self.front_end(normalised_BTF, lengths_B)
        lengths_B = self.features.frames(lengths_B)
        context = FrameContext.make(lengths_B, x_BTD.shape[1], self.config.head_width, x_BTD.dtype)
        condition = None if self.feedback is None else self._condition
        if isinstance(subset, ChunkSchedule) and self.config.streaming is not None:
            context = seeing_chunks(context, subset, self.config.streaming.left_frames)
            if len(subset.subsets) > 1:
                x_BTD = self.encoder.run_by_chunk(x_BTD, context, subset, condition)
                return EncoderOutput(self._classify(x_BTD, subset.depth), lengths_B)
            subset = subset.subsets[0]
        if isinstance(subset, SelectorDepth) and self.selector is not None:
            check_blocks("the depth", subset.n_blocks, self.n_blocks)
            gates_BN = self.selector(x_BTD, context.mask_BT, subset.depth)
            x_BTD = self.encoder.run_chosen(x_BTD, context, gates_BN, condition)
            return EncoderOutput(self._classify(x_BTD, subset.depth), lengths_B)
        x_BTD, states = self.encoder(x_BTD, context, subset, condition, keep_states=bool(exits))
        if isinstance(subset, Gates) and self.config.exit_heads:
            return EncoderOutput(self._classify_by_gates(x_BTD, subset.open_N), lengths_B)
        depth = self.config.n_blocks if isinstance(subset, Gates) else subset.depth
        exits_BTV = tuple(self._classify(states[n - 1], n) for n in exits)
        return EncoderOutput(self._classify(x_BTD, depth), lengths_B, exits_BTV)

    def _classify(self, x_BTD: Tensor, depth: int) -> Tensor:
        """Return log-probabilities after `depth` blocks, by the head of that depth where each depth has its own."""
        norm, linear = self.head_of(depth)
        logits_BTV: Tensor = linear(norm(x_BTD))
        return logits_BTV.float().log_softmax(dim=-1)

    def classify(self, x_BTD: Tensor) -> Tensor:
        """Return the log-probabilities (B, T, V) that the one head makes of the stream."""
        return self._classify(x_BTD, self.n_blocks)

    def conditioned(self, x_BTD: Tensor) -> Tensor:
        """Return what a block that runs takes in place of the stream: the stream, and what `self_condition` adds."""
        return x_BTD if self.feedback is None else self._condition(x_BTD)

    def _condition(self, x_BTD: Tensor) -> Tensor:
        """Add the CTC posteriors of the stream so far to it: self-conditioned CTC (Nozaki & Komatsu, arXiv 2104.02724).

        x + W softmax(head(norm(x))) + b, before every block that runs. For a skipped block nothing is computed.
        """
        assert self.feedback is not None
        posteriors_BTV = self.head(self.norm(x_BTD)).float().softmax(dim=-1).to(x_BTD.dtype)
        conditioned_BTD: Tensor = x_BTD + self.feedback(posteriors_BTV)
        return conditioned_BTD

    def _classify_by_gates(self, x_BTD: Tensor, open_N: Tensor) -> Tensor:
        """Return log-probabilities where the depth is an input of the graph: the weights of its head are looked up."""
        row = (open_N.sum() - 1).view(1)
        heads = [*self.exit_heads, nn.Sequential(self.norm, self.head)]

        def weights(part: int, name: str) -> Tensor:
            return torch.stack([getattr(head[part], name) for head in heads]).index_select(0, row).squeeze(0)

        if isinstance(self.norm, nn.LayerNorm):
            normalised_BTD = F.layer_norm(x_BTD, x_BTD.shape[-1:], eps=self.norm.eps)
            x_BTD = normalised_BTD * weights(0, "weight") + weights(0, "bias")
        logits_BTV = x_BTD @ weights(1, "weight").t() + weights(1, "bias")
        return logits_BTV.float().log_softmax(dim=-1)

    def start_from(self, other: ConformerCTC) -> None:
        """Copy the weights of a network of the same shape.

        Exit heads that it lacks are initialised with its one head. A feedback layer that it lacks is initialised with
        zeros, so that the outputs are the same at first. A selector that it lacks, or that is of another kind, is left
        as it is.
        """
        weights, own = other.state_dict(), self.state_dict()
        if not other.config.exit_heads:
            for i in range(len(self.exit_heads)):
                for place, part in enumerate((other.norm, other.head)):
                    weights |= {f"exit_heads.{i}.{place}.{name}": tensor for name, tensor in part.state_dict().items()}
        if self.feedback is not None and other.feedback is None:
            weights |= {name: torch.zeros_like(own[name]) for name in own if name.startswith("feedback.")}
        for name in [name for name in own if name.startswith("selector.")]:
            weights.setdefault(name, own[name])
        self.load_state_dict({name: tensor for name, tensor in weights.items() if name in own})

    def head_of(self, depth: int) -> tuple[nn.Module, nn.Module]:
        """Return the norm and the linear layer that give the log-probabilities after `depth` blocks."""
        if self.config.exit_heads and depth < self.config.n_blocks:
            own = self.exit_heads[depth - 1]
            assert isinstance(own, nn.Sequential)
            return own[0], own[1]
        return self.norm, self.head


def load_conformer(folder: Path) -> tuple[ConformerCTC, Tokenizer]:
    """Return the network (in `eval()`, on the CPU) and its tokenizer.

    Raises `UserError` that names what is missing or does not fit.
    """
    config_file = folder / "config.json"
    description = read_description(folder)
    check_frame_rate(folder, description, ConformerCTC.features, "this layerdial's Conformers")
    tokenizer = tokenizer_of(folder, description.vocab_size)
    with torch.device("meta"):
        config = parse(ConformerConfig, without_gone(description.model, str(config_file)), str(config_file))
        network = ConformerCTC(config, description.vocab_size)
    load_weights(network, folder / "model.safetensors")
    return network.eval(), tokenizer


def conformer_block(config: ConformerConfig) -> ConformerBlock:
    """Return one block with the sizes in `config`."""
    return ConformerBlock(
        attention=RotaryAttention(config.width, config.heads, config.dropout),
        convolution=Convolution(config.width, config.kernel, config.dropout, causal=config.streaming is not None),
        ff_in=FeedForward(config.width, config.ffn_width, config.dropout),
        ff_out=FeedForward(config.width, config.ffn_width, config.dropout),
        norm=nn.LayerNorm(config.width) if config.block_norm else nn.Identity(),
    )


def _final_norm(config: ConformerConfig) -> nn.Module:
    """Return the norm before a head: the identity where every block ends with a norm of its own."""
    return nn.Identity() if config.block_norm else nn.LayerNorm(config.width)


def _make_normalisation(config: ConformerConfig) -> nn.Module:
    if config.normalise == "fixed":
        return FixedNorm(N_MELS)
    return SpeechNorm() if config.normalise == "speech" else UtteranceNorm()


def _make_selector(config: ConformerConfig) -> nn.Module | None:
    if config.selector == "input":
        return InputSelector(config.width, config.n_blocks)
    return LearnedScores(config.n_blocks) if config.selector == "scores" else None


def _initialise(module: nn.Module) -> None:
    """Initialise linear layers by Xavier.

    With torch's default, which is smaller, CTC predicts only blanks for several times as many updates.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
