"""One ONNX graph of a streaming Conformer: a chunk, its depth and the caches in, log-probabilities and caches out.

Blocks are `If` branches as in any export. So is the projection of what blocks that run again have kept raw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from layerdial.audio.kaldi_fbank import N_MELS
from layerdial.config.network import FRAME_MS
from layerdial.errors import UserError
from layerdial.export.graph import FREE, blocks_to_branches, trace_module
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.models.dynamic import Gates
from layerdial.models.network import EncoderOutput, Network
from layerdial.models.streaming import Caches, step
from layerdial.recognition.chunk_model import LONGEST_CHUNK_MS, STREAM_AXES
from layerdial.recognizer import FeatureBatch
from layerdial.runtime.streaming_facts import CACHES, ChunkMs, StreamingFacts
from layerdial.runtime.streaming_session import STREAMING_INPUTS, STREAMING_OUTPUTS, StreamingSession
from layerdial.subset import BlockSubset, ChunkSchedule

_STREAMS = 2  # sizes of one would be taken for constants
_INPUTS = 32  # log-mel frames of the traced chunk


@dataclass(frozen=True)
class Streaming:
    """How a streaming graph is used where a program does not say: files in chunks of `chunk_ms`.

    Without it each stretch of a file is one chunk, if the network was trained on whole utterances too, and else they
    are in chunks of its largest size.
    """

    chunk_ms: int | None = None

    def __post_init__(self) -> None:
        size = FRAME_MS if self.chunk_ms is None else self.chunk_ms
        if not FRAME_MS <= size <= LONGEST_CHUNK_MS or size % FRAME_MS:
            raise UserError(
                f"--chunk-ms is {size}; give a multiple of {FRAME_MS}, such as 640, up to {LONGEST_CHUNK_MS}"
            )


def streaming_facts(network: ConformerCTC, asked: Streaming) -> StreamingFacts:
    """Return what a runtime must know of the graph."""
    settings = network.config.streaming
    assert settings is not None
    sizes = [size for size in settings.chunk_ms if size != "full"]
    usual: ChunkMs = "full" if "full" in settings.chunk_ms else max(sizes)
    shapes = [list[int | None](part.shape) for part in Caches.begin(network.config, 1)]
    for shape, axis in zip(shapes, STREAM_AXES, strict=True):
        shape[axis] = None
    caches = dict(zip(CACHES, map(tuple, shapes), strict=True))
    return StreamingFacts(FRAME_MS, settings.chunk_ms, asked.chunk_ms or usual, settings.left_context_ms, caches)


class _Step(nn.Module):
    """One step of a network, with its subset as a third input and its caches behind it."""

    def __init__(self, network: ConformerCTC) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, x_lens: Tensor, gates: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        output, after = step(self.network, x, x_lens, Gates(self.network.n_blocks, gates), Caches(*caches))
        return output.log_probs_BTV, output.lengths_B, *after


def to_streaming_onnx(network: ConformerCTC) -> ir.Model:
    """Return the graph of a step: its inputs and outputs are `STREAMING_INPUTS` and `STREAMING_OUTPUTS`.

    The number of streams and the length of a chunk are free. The network is put into `eval()`; it must be on the CPU
    and in float32.
    """
    caches = Caches.begin(network.config, _STREAMS)
    x = torch.randn(_STREAMS, _INPUTS, N_MELS)
    lengths_B = torch.tensor([_INPUTS, _INPUTS // 2])
    arguments = (x, lengths_B, torch.ones(network.n_blocks, dtype=torch.bool), *caches)
    free = tuple({axis: FREE} for axis in STREAM_AXES)
    shapes = {"x": {0: FREE, 1: FREE}, "x_lens": {0: FREE}, "gates": None, "caches": free}
    model = trace_module(_Step(network), arguments, shapes, STREAMING_INPUTS, STREAMING_OUTPUTS)
    blocks_to_branches(model, 2 * network.n_blocks + 1)
    _name_axes(model)
    return model


def _name_axes(model: ir.Model) -> None:
    """Name the free axes of inputs and outputs by their meaning."""
    x, lengths, _, *caches = model.graph.inputs
    log_probs, frames, *after = model.graph.outputs
    assert x.shape is not None and log_probs.shape is not None
    x.shape = ir.Shape(["streams", "time", *x.shape[2:]])
    lengths.shape = frames.shape = ir.Shape(["streams"])
    log_probs.shape = ir.Shape(["streams", "frames", log_probs.shape[2]])
    for axis, *both in zip(STREAM_AXES, caches, after, strict=True):
        for value in both:
            sizes = list(value.shape or ())
            sizes[axis] = "streams"
            value.shape = ir.Shape(sizes)


def in_chunks_as_torch(
    session: StreamingSession, network: Network, batch: FeatureBatch, subset: BlockSubset
) -> Iterator[tuple[tuple[NDArray[np.float32], NDArray[np.int64]], EncoderOutput]]:
    """Yield what the graph makes of a batch chunk by chunk, and torch of whole utterances, for every size of chunks."""
    whole = network.features.frames(batch.inputs.shape[1])
    for size in session.facts.chunk_ms:
        schedule = ChunkSchedule((whole if size == "full" else size // session.facts.frame_ms,), (subset,))
        ours = session.in_chunks(batch.inputs, batch.lengths_B, schedule)
        with torch.inference_mode():
            yield ours, network(torch.from_numpy(batch.inputs), torch.from_numpy(batch.lengths_B), schedule)
