"""The base class of all networks: a front end, dynamic blocks, a head, and the features that it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from layerdial.audio.features import Features
from layerdial.audio.files import SAMPLE_RATE
from layerdial.config.network import NetworkConfig
from layerdial.models.description import write_description
from layerdial.models.dynamic import Choice, SkipRule
from layerdial.models.tensors import save_tensors
from layerdial.text.labels import FrameLabels, Labels


class EncoderOutput(NamedTuple):
    """Log-probabilities (B, T', V) in float32, token 0 the blank; valid frames (B,); log-probabilities at each exit.

    Those of a network with a decoder are (B, U, V), of each label.

    A named tuple, because DDP, accelerate and torch.export look for tensors in tuples.
    """

    log_probs_BTV: Tensor
    lengths_B: Tensor
    exits_BTV: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Blueprint:
    """What a network was built from: its settings, and for how many tokens."""

    settings: NetworkConfig
    vocab_size: int


class Network(nn.Module):
    """The base of Conformer, Hugging Face and a user's networks. Which blocks run is an argument of every call.

    `head` is the last layer, from the encoder's width to the vocabulary. `skip` is the rule for a skipped block.
    `blueprint` is what it was built from; none for Hugging Face networks, whose config has it. `labels` says how a
    transcript meets the audio; a network with a decoder, `labels.teacher_forced`, takes it as a further argument.
    """

    __call__: Callable[..., EncoderOutput]
    features: Features
    head: nn.Module
    skip: SkipRule = "identity"
    blueprint: Blueprint | None = None
    labels: Labels = FrameLabels()

    def __init__(self) -> None:
        super().__init__()
        # The module that a `SelectorDepth` uses; most networks have none. (An attribute of the class would hide it.)
        self.selector: nn.Module | None = None

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The encoder's blocks, first to last."""
        raise NotImplementedError

    @property
    def n_blocks(self) -> int:
        return len(self.blocks)

    @property
    def optional_heads(self) -> Sequence[nn.Module]:
        """The parts of heads that some depths use and others do not."""
        return ()

    def forward(self, inputs: Tensor, lengths_B: Tensor, subset: Choice, exits: Sequence[int] = ()) -> EncoderOutput:
        """Run the blocks of `subset` on `inputs` as `features` makes them, zero-padded: (B, T, F) or (B, S).

        `lengths_B` may stay on the CPU: then a network can skip the check for padding on the device. Each number n in
        `exits` adds an output after n of the blocks that run.
        """
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write config and weights into a folder that exists."""
        assert self.blueprint is not None
        save_tensors(folder / "model.safetensors", self.state_dict())
        write_description(folder, self.blueprint.settings, self.blueprint.vocab_size, self.features)

    def example_inputs(self, seconds: float) -> tuple[Tensor, Tensor]:
        """Return noise of `seconds` as the network takes it, and its length: one utterance, on the network's device."""
        samples = np.random.default_rng(0).normal(0.0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32)
        inputs = torch.from_numpy(self.features(samples)).unsqueeze(0)
        return inputs.to(next(self.parameters()).device), torch.tensor([inputs.shape[1]])
