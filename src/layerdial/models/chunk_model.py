"""A streaming network of torch as a `ChunkModel`: arrays in, arrays out.

Shapes: B streams, T inputs, F mel bins, V vocabulary.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from layerdial.audio.features import Features
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.models.streaming import Caches, step
from layerdial.recognition.chunk_model import Kept, StreamCaches, check_caches
from layerdial.subset import BlockSubset


class TorchChunkModel:
    """A streaming Conformer, a chunk at a time, where its weights are."""

    def __init__(self, network: ConformerCTC) -> None:
        self._network = network

    @property
    def n_blocks(self) -> int:
        return self._network.n_blocks

    @property
    def features(self) -> Features:
        return self._network.features

    def begin(self, streams: int = 1) -> StreamCaches:
        """Return the caches of streams that have heard nothing."""
        return StreamCaches(*(part.numpy() for part in Caches.begin(self._network.config, streams)))

    @cached_property
    def _fresh(self) -> StreamCaches:
        return self.begin()

    def step(
        self, inputs_BTF: NDArray[np.float32], lengths_B: NDArray[np.int64], subset: BlockSubset, caches: Kept
    ) -> tuple[NDArray[np.float32], StreamCaches]:
        """Run the blocks of `subset` on the next chunk of each stream; see `ChunkModel`."""
        arrays = caches.arrays()
        check_caches(arrays, self._fresh, len(inputs_BTF))
        device = next(self._network.parameters()).device
        self._network.eval()
        inputs, lengths, *kept = (torch.from_numpy(part).to(device) for part in (inputs_BTF, lengths_B, *arrays))
        with torch.inference_mode():
            output, after = step(self._network, inputs, lengths, subset, Caches(*kept))
        return output.log_probs_BTV.float().cpu().numpy(), StreamCaches(*(part.cpu().numpy() for part in after))
