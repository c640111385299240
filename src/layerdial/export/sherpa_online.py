"""Streaming models as the graph that sherpa-onnx's `OnlineRecognizer.from_zipformer2_ctc` loads: one depth, one chunk.

Of its online loaders this one fits with least. Its features are ours, where the NeMo loader's graph gets other
filters, and it takes batches, where WeNet's takes samples of another scale. A layer of a Zipformer has six states, and
metadata say how large each is. So one layer holds what all our blocks keep; states that are not needed are tiny.

Shapes: B streams, T inputs of a chunk, N kept blocks, L frames of left context, K = kernel - 1, D width, E = 2D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor, nn

from layerdial.audio.kaldi_fbank import N_MELS
from layerdial.errors import UserError
from layerdial.export.graph import FREE, trace_module
from layerdial.export.sherpa_whisper import SherpaFolder
from layerdial.export.writer import Described
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.models.prune import pruned_conformer
from layerdial.models.streaming import Caches, advance, streaming_network
from layerdial.runtime.manifest import GRAPH
from layerdial.subset import BlockSubset

_STREAMS = 2  # sizes of one would be taken for constants
_EMBED = (128, 3, 19)  # the state of a Zipformer's front end, whose size no metadata say
_STATES = ("key", "nonlin_attn", "val1", "val2", "conv1", "conv2")
_STREAM_AXES = (1, 1, 1, 1, 0, 0, 0, 0)
_CHANNELS = 4  # the fewest of a layer in which every state has a size


def online_folder(described: Described, subset: BlockSubset, chunk_ms: int) -> SherpaFolder:
    """Return the graph, with the blocks of `subset` alone, and what is written beside it."""
    network = pruned_conformer(streaming_network(described.network, described.manifest.name), subset)
    if described.manifest.silent_tokens:
        raise UserError("sherpa-onnx's online recogniser writes every token; this model has some that are not written")
    layout = _Layout.of(network)
    inputs = chunk_ms * network.features.per_second // 1000
    call = f'from_zipformer2_ctc(\n    tokens="tokens.txt", model="{GRAPH}", num_threads=1\n)'
    model = _trace(network, layout, inputs)
    return SherpaFolder({GRAPH: model}, described.pieces.tokens, call, layout.metadata(inputs), _notes(chunk_ms))


@dataclass(frozen=True)
class _Layout:
    """The sizes of the states, and where in them our caches lie."""

    blocks: int
    left: int
    before: int
    width: int

    @classmethod
    def of(cls, network: ConformerCTC) -> _Layout:
        config = network.config
        assert config.streaming is not None
        if N_MELS + config.width > math.prod(_EMBED):
            raise UserError(f"sherpa-onnx keeps {math.prod(_EMBED)} numbers of a front end, this one has more")
        return cls(config.n_blocks, config.streaming.left_frames, config.kernel - 1, config.width)

    @property
    def key_width(self) -> int:
        return self.blocks * 2 * self.width

    @property
    def conv_frames(self) -> int:
        """Frames of each of two states that together hold what all convolutions take."""
        return max(1, math.ceil(self.blocks * self.before * self.width / (2 * _CHANNELS)))

    def metadata(self, inputs: int) -> dict[str, str]:
        """Return what sherpa-onnx reads: the sizes of one layer's states, and of a chunk."""
        found = {
            "encoder_dims": _CHANNELS,
            "query_head_dims": self.key_width,
            "value_head_dims": 1,
            "num_heads": 1,
            "num_encoder_layers": 1,
            "cnn_module_kernels": 2 * self.conv_frames,
            "left_context_len": self.left,
            "T": inputs,
            "decode_chunk_len": inputs,
        }
        return {"model_type": "zipformer2"} | {name: str(value) for name, value in found.items()}

    def begin(self, streams: int) -> list[Tensor]:
        """Return the states of streams that have heard nothing."""
        return [
            torch.zeros(self.left, streams, self.key_width),
            torch.zeros(1, streams, self.left, 3 * _CHANNELS // 4),
            *(torch.zeros(self.left, streams, 1) for _ in range(2)),
            *(torch.zeros(streams, _CHANNELS, self.conv_frames) for _ in range(2)),
            torch.zeros(streams, *_EMBED),
            torch.zeros(streams, dtype=torch.int64),
        ]

    def caches(self, states: tuple[Tensor, ...]) -> Caches:
        """Return our caches, which lie in the states."""
        key, _, _, _, *convs, embed, seen_B = states
        keys_NBLE = key.unflatten(2, (self.blocks, 2 * self.width)).permute(2, 1, 0, 3)  # type: ignore[no-untyped-call]
        flat = torch.cat([conv.flatten(1) for conv in convs], dim=1)
        size = self.blocks * self.before * self.width
        gated_NBKD = flat[:, :size].unflatten(1, (self.blocks, self.before, self.width)).transpose(0, 1)  # type: ignore[no-untyped-call]
        front = embed.flatten(1).unsqueeze(1)
        input_B1F, middle_B1D = front[:, :, :N_MELS], front[:, :, N_MELS : N_MELS + self.width]
        raw_NBP = torch.zeros_like(keys_NBLE[..., 0], dtype=torch.bool)  # no kept block ever misses a frame
        return Caches(seen_B, input_B1F, middle_B1D, keys_NBLE, gated_NBKD, raw_NBP)

    def states(self, caches: Caches, states: tuple[Tensor, ...]) -> list[Tensor]:
        """Return the states with these caches in them; those that hold nothing are left as they are."""
        key = caches.keys_NBLE.permute(2, 1, 0, 3).flatten(2)
        flat = _filled(caches.gated_NBKD.transpose(0, 1).flatten(1), 2 * _CHANNELS * self.conv_frames)
        convs = flat.unflatten(1, (2, _CHANNELS, self.conv_frames)).unbind(1)  # type: ignore[no-untyped-call]
        front = _filled(torch.cat([caches.input_B1F, caches.middle_B1D], dim=2).flatten(1), math.prod(_EMBED))
        return [key, *states[1:4], *convs, front.unflatten(1, _EMBED), caches.seen_B]  # type: ignore[no-untyped-call]


def _filled(x_BC: Tensor, size: int) -> Tensor:
    return nn.functional.pad(x_BC, (0, size - x_BC.shape[1]))


class _Online(nn.Module):
    """One step at full depth, with caches in the states of a Zipformer."""

    def __init__(self, network: ConformerCTC, layout: _Layout) -> None:
        super().__init__()
        self.network = network
        self.layout = layout

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        lengths_B = torch.full_like(states[-1], x.shape[1])
        subset = BlockSubset.full(self.network.n_blocks)
        output, after = advance(self.network, x, lengths_B, subset, self.layout.caches(states))
        return output.log_probs_BTV, *self.layout.states(after, states)


def _trace(network: ConformerCTC, layout: _Layout, inputs: int) -> ir.Model:
    states = layout.begin(_STREAMS)
    names = [*(f"cached_{name}_0" for name in _STATES), "embed_states", "processed_lens"]
    shapes = {"x": {0: FREE}, "states": tuple({axis: FREE} for axis in _STREAM_AXES)}
    arguments = (torch.randn(_STREAMS, inputs, N_MELS), *states)
    outputs = ["log_probs", *(f"new_{name}" for name in names)]
    return trace_module(_Online(network, layout), arguments, shapes, ["x", *names], outputs)


def _notes(chunk_ms: int) -> str:
    return f"It hears chunks of {chunk_ms} ms.\n\n"
