"""The alignment heads of Whisper's decoder: which they are, and what they ask the audio for.

Shapes: B batch, U tokens, D width.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from layerdial.text.prompt import Heads

_log = logging.getLogger(__name__)


def alignment_heads(model: Any) -> Heads:
    """Return the heads (block, head) of a checkpoint's generation_config.json, else all of the last half of the blocks.

    These are what openai-whisper takes where none are known. Heads that the decoder does not have are of the model that
    the file was copied from, so there is a warning.
    """
    n_blocks, n_heads = model.config.decoder_layers, model.config.decoder_attention_heads
    named = getattr(model.generation_config, "alignment_heads", None) or ()
    found = tuple((int(block), int(head)) for block, head in named)
    if found and all(0 <= block < n_blocks and 0 <= head < n_heads for block, head in found):
        return found
    if found:
        _log.warning(
            "generation_config.json: alignment_heads are those of another decoder (this has %d blocks of %d heads); "
            "times of words come from the last half of the blocks",
            n_blocks,
            n_heads,
        )
    return tuple((block, head) for block in range(n_blocks // 2, n_blocks) for head in range(n_heads))


@contextmanager
def recorded_queries(block: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what the cross-attention of a block asks the audio for (B, U, D), of each call by this thread."""
    found, here = list[Tensor](), threading.get_ident()

    def record(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if threading.get_ident() == here:
            found.append(output)

    handle = block.encoder_attn.q_proj.register_forward_hook(record)  # type: ignore[union-attr]
    try:
        yield found
    finally:
        handle.remove()
