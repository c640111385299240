"""Whisper's decoder in torch, as the searches of `layerdial.text` call it: with cached keys and values.

Shapes: B batch, U tokens of a step, V vocabulary, A alignment heads, T encoder frames, D width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerdial.models.huggingface.whisper import Memory, WhisperNetwork, new_cache
from layerdial.models.huggingface.whisper_attention import recorded_queries
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

    def keys(self) -> NDArray[np.float32]:
        made = {i: self.attention(i).k_proj(self.memory.states_BTD[0]) for i, _ in self.use.heads}
        return self.of_heads(made)

    def attention(self, block: int) -> Any:
        """Return the cross-attention of a block of the decoder."""
        return self.network.decoder.layers.blocks[block].encoder_attn

    def of_heads(self, by_block: Mapping[int, Tensor]) -> NDArray[np.float32]:
        """Return the parts (A, T or U, D) of the use's heads, of what was computed in each block for all its heads."""
        width = self.attention(0).head_dim
        parts = [by_block[block][:, head * width : (head + 1) * width] for block, head in self.use.heads]
        return torch.stack(parts).detach().float().cpu().numpy()


class TorchSteps:
    """The decoder with its cache."""

    def __init__(self, encoded: TorchEncoded) -> None:
        self._encoded = encoded
        self._cache = new_cache()
        self._n_before = 0
        self._queries: dict[int, list[Tensor]] = {block: [] for block, _ in encoded.use.heads}

    def next(self, tokens_BU: NDArray[np.int64]) -> NDArray[np.float32]:
        memory = self._encoded.memory
        device = memory.states_BTD.device
        if len(memory.states_BTD) == 1:
            memory = memory.of_rows(len(tokens_BU))
        tokens = torch.from_numpy(tokens_BU).to(device)
        with self._recording():
            logits = self._encoded.network.next_token(tokens, memory, self._cache, self._n_before, self._encoded.use)
        self._n_before += tokens.shape[1]
        return logits.detach().cpu().numpy()

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """Keep what the blocks with alignment heads ask for, in a search that has one row."""
        blocks = self._encoded.network.decoder.layers.blocks
        with ExitStack() as stack:
            found = {i: stack.enter_context(recorded_queries(blocks[i])) for i in self._queries}
            yield
        for i, calls in found.items():
            self._queries[i] += calls

    def queries(self) -> NDArray[np.float32]:
        return self._encoded.of_heads({i: torch.cat(calls, dim=1)[0] for i, calls in self._queries.items()})

    def reorder(self, rows: Sequence[int]) -> None:
        self._cache.reorder_cache(torch.tensor(rows, device=self._encoded.memory.states_BTD.device))
