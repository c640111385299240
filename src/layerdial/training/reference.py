"""The frozen reference model that the student learns from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from layerdial.audio.features import Features
from layerdial.errors import UserError
from layerdial.models.checkpoint import load_network, resolve_model
from layerdial.models.network import Network
from layerdial.subset import BlockSubset
from layerdial.text.tokenizer import Tokenizer


class Reference:
    """All blocks, `eval()`, no gradient. Not an `nn.Module`: nothing wakes it by `train()`, no checkpoint holds it."""

    def __init__(self, network: Network, tokenizer: Tokenizer, folder: Path) -> None:
        self._network = network.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.folder = folder

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Reference:
        """The reference stored in a model folder, or of a hub id."""
        folder = resolve_model(folder)
        network, tokenizer = load_network(folder)
        return cls(network.to(device), tokenizer, folder)

    @property
    def network(self) -> Network:
        return self._network

    def check_vocabulary(self, tokenizer: Tokenizer) -> None:
        """`UserError` unless the student's tokens are the reference's, in the same order."""
        own, other = self.tokenizer.tokens, tokenizer.tokens
        if own != other:
            differing = next(
                (i for i, (a, b) in enumerate(zip(own, other, strict=False)) if a != b), min(len(own), len(other))
            )
            raise UserError(
                f"the reference {self.folder} has another vocabulary ({len(own)} tokens) than the student "
                f"({len(other)}); they differ from token {differing} on. "
                "Without `tokenizer` the recipe takes the reference's"
            )

    def check_features(self, network: Network) -> None:
        """`UserError` unless the student takes the same features and makes as many frames of them."""
        own, other = self._network.features, network.features
        if own != other:
            raise UserError(
                f"the reference {self.folder} takes {own}, the student {other}{_detail(own, other)}; frames can only "
                "be compared between networks with the same features"
            )

    @torch.no_grad()
    def posteriors(self, inputs: Tensor, lengths_B: Tensor, *tokens_BU: Tensor) -> Tensor:
        """Return log-probabilities (B, T', V) in float32; with a decoder (B, U, V), of the labels `tokens_BU`."""
        full = BlockSubset.full(self._network.n_blocks)
        return self._network(inputs, lengths_B, full, (), *tokens_BU).log_probs_BTV


def _detail(own: Features, other: Features) -> str:
    """Return the first setting that differs, where the two read alike."""
    mine, theirs = own.settings, other.settings
    name = next((name for name in mine if name in theirs and mine[name] != theirs[name]), None)
    if name is None or repr(own) != repr(other):
        return ""
    return f" ({name} {mine[name]!r}, the student's {theirs[name]!r})"
