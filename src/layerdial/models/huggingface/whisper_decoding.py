"""Whisper's decoder in torch, as the searches of `layerdial.text` call it: with cached keys and values.

Shapes: B batch, U tokens of a step, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from layerdial.models.huggingface.whisper import Memory, WhisperNetwork, new_cache
from layerdial.text.prompt import DecoderUse


@dataclass(frozen=True)
class TorchEncoded:
    """Utterances that the encoder has read; see `layerdial.text.token_decoding.Encoded`."""

    network: WhisperNetwork
    memory: Memory
    use: DecoderUse

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.use.prompt

    @property
    def most_tokens(self) -> int:
        return self.network.most_tokens

    def __len__(self) -> int:
        return len(self.memory.states_BTD)

    def begin(self) -> TorchSteps:
        return TorchSteps(self)

    def of(self, row: int) -> TorchEncoded:
        return replace(self, memory=self.memory.of(row))


class TorchSteps:
    """The decoder with its cache."""

    def __init__(self, encoded: TorchEncoded) -> None:
        self._encoded = encoded
        self._cache = new_cache()
        self._n_before = 0

    def next(self, tokens_BU: NDArray[np.int64]) -> NDArray[np.float32]:
        memory = self._encoded.memory
        device = memory.states_BTD.device
        if len(memory.states_BTD) == 1:
            memory = memory.of_rows(len(tokens_BU))
        tokens = torch.from_numpy(tokens_BU).to(device)
        logits = self._encoded.network.next_token(tokens, memory, self._cache, self._n_before, self._encoded.use)
        self._n_before += tokens.shape[1]
        return logits.detach().cpu().numpy()

    def reorder(self, rows: Sequence[int]) -> None:
        self._cache.reorder_cache(torch.tensor(rows, device=self._encoded.memory.states_BTD.device))
