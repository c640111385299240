"""Two ONNX graphs of Whisper: one that reads audio, one that writes tokens. Every block of both is an `If` branch.

The first has the encoder, and the keys and values that each block of the decoder takes from it: they are computed once
an utterance. The second makes one step of the decoder; the keys and values of earlier tokens are inputs and outputs.

Shapes: B batch, T mel frames, T' encoder frames, D width, H heads, U tokens of a step, P tokens before them, N and L
blocks of encoder and decoder, V vocabulary.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache

from layerdial.export.graph import FREE, blocks_to_branches, trace_module
from layerdial.models.dynamic import Gates
from layerdial.models.huggingface.whisper import WhisperNetwork
from layerdial.models.huggingface.whisper_attention import alignment_heads, recorded_queries
from layerdial.models.huggingface.whisper_encoder import longest_input
from layerdial.modules.subsampling import frame_mask
from layerdial.runtime.manifest import DecoderFacts
from layerdial.runtime.token_session import decoder_ends, encoder_ends

_Pair = tuple[Tensor, Tensor]


def decoder_facts(network: WhisperNetwork) -> DecoderFacts:
    """Return what a runtime must know of the decoder."""
    config, settings = network.model.config, network.model.generation_config
    return DecoderFacts(
        n_blocks=network.decoder_use.subset.n_blocks,
        n_heads=config.decoder_attention_heads,
        head_width=config.d_model // config.decoder_attention_heads,
        prompt=network.decoder_use.prompt,
        end=config.eos_token_id,
        suppressed=tuple(settings.suppress_tokens or ()),
        not_first=tuple(settings.begin_suppress_tokens or ()),
        most_tokens=network.most_tokens,
        longest=longest_input(network.encoder),
        pads_input=network.pads_input,
        alignment_heads=alignment_heads(network.model),
    )


def encoder_decoder_graphs(network: WhisperNetwork) -> tuple[ir.Model, ir.Model]:
    """Return the graph that reads audio and the one that writes. The network must be on the CPU and in float32."""
    pads, network.pads_input = network.pads_input, False  # the runtime pads, so that a graph takes any length
    try:
        return _encoder_graph(network), _decoder_graph(network)
    finally:
        network.pads_input = pads


def _encoder_graph(network: WhisperNetwork) -> ir.Model:
    facts = decoder_facts(network)
    frames = min(200, facts.longest - facts.longest % 4)
    x = torch.randn(2, frames, network.model.config.num_mel_bins)
    lengths_B = torch.tensor([frames, frames - frames // 4])
    gates = [torch.ones(count, dtype=torch.bool) for count in (network.n_blocks, facts.n_blocks)]
    shapes = {"x": {0: FREE, 1: FREE}, "x_lens": {0: FREE}, "gates": None, "decoder_gates": None}
    model = trace_module(_Reader(network), (x, lengths_B, *gates), shapes, *encoder_ends(facts.n_blocks))
    blocks_to_branches(model, network.n_blocks + facts.n_blocks)
    return model


def _decoder_graph(network: WhisperNetwork) -> ir.Model:
    facts = decoder_facts(network)
    batch, n_frames, n_before, n_tokens = 2, 75, 3, 2  # sizes of one would be taken for constants

    def some(length: int) -> list[Tensor]:
        return [torch.randn(batch, facts.n_heads, length, facts.head_width) for _ in range(facts.n_blocks)]

    tokens_BU = torch.zeros(batch, n_tokens, dtype=torch.long)
    gates_L = torch.ones(facts.n_blocks, dtype=torch.bool)
    cached = (some(n_frames), some(n_frames), some(n_before), some(n_before))
    shapes: dict[str, Any] = {"tokens": {0: FREE, 1: FREE}, "frames": {0: FREE}, "decoder_gates": None}
    shapes |= {name: [{0: FREE, 2: FREE}] * facts.n_blocks for name in ("keys", "values", "past_keys", "past_values")}
    arguments = (tokens_BU, torch.tensor([n_frames, 50]), gates_L, *cached)
    model = trace_module(_Writer(network), arguments, shapes, *decoder_ends(facts))
    blocks_to_branches(model, facts.n_blocks)
    _share_embeddings(model)
    return model


class _Reader(nn.Module):
    """The encoder, and what the decoder's blocks take from it."""

    def __init__(self, network: WhisperNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, x_lens: Tensor, gates: Tensor, decoder_gates: Tensor) -> Any:
        network = self.network
        memory, _ = network.encode(x, x_lens, Gates(network.n_blocks, gates))
        keys, values = list[Tensor](), list[Tensor]()
        for i, block in enumerate(network.decoder.layers.blocks):
            attention = block.encoder_attn
            made = attention.k_proj(memory.states_BTD), attention.v_proj(memory.states_BTD)
            key, value = (_in_heads(x_BTD, attention.head_dim) for x_BTD in made)
            left = _in_heads(memory.states_BTD, attention.head_dim)  # of the same shape, for a block that does not run
            gate = decoder_gates[i]
            keys.append(torch.where(gate, key, left))
            values.append(torch.where(gate, value, left))
        return network.features.frames(x_lens), keys, values


class _Writer(nn.Module):
    """One step of the decoder. Its embeddings are those of the library's forward, which takes no mask of frames."""

    def __init__(self, network: WhisperNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        tokens: Tensor,
        frames: Tensor,
        decoder_gates: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
        past_keys: list[Tensor],
        past_values: list[Tensor],
    ) -> Any:
        decoder, n_before = self.network.decoder, past_keys[0].shape[2]
        positions_U = torch.arange(n_before, n_before + tokens.shape[1])
        x_BUD = decoder.embed_tokens(tokens) + decoder.embed_positions.weight[positions_U]
        causal = torch.arange(n_before + tokens.shape[1]) <= positions_U[:, None]
        masks = causal[None, None], frame_mask(frames, keys[0].shape[2])[:, None, None]
        present_keys, present_values, queries = list[Tensor](), list[Tensor](), list[Tensor]()
        for i, block in enumerate(decoder.layers.blocks):
            past = past_keys[i], past_values[i]
            ran_BUD, query_BUD, present = _run_block(block, x_BUD, masks, (keys[i], values[i]), past)
            left = _in_heads(x_BUD, keys[i].shape[3])  # what is cached of a block that does not run is never read
            not_run = [torch.cat([before, left], dim=2) for before in past]
            gate = decoder_gates[i]
            present_keys.append(torch.where(gate, present[0], not_run[0]))
            present_values.append(torch.where(gate, present[1], not_run[1]))
            queries.append(torch.where(gate, query_BUD, x_BUD))
            x_BUD = torch.where(gate, ran_BUD, x_BUD)
        return self.network.head(decoder.layer_norm(x_BUD)), present_keys, present_values, queries


def _run_block(
    block: nn.Module, x_BUD: Tensor, masks: _Pair, memory: _Pair, past: _Pair
) -> tuple[Tensor, Tensor, _Pair]:
    """Return the output of one of the library's blocks, the queries of its cross-attention, and keys and values.

    These are of the earlier tokens and of the new ones.
    """
    cache = _BlockCache(block.self_attn.layer_idx, memory, past)  # type: ignore[union-attr, arg-type]
    causal, frames = masks
    with recorded_queries(block) as queries:
        x_BUD = block(x_BUD, causal, x_BUD, encoder_attention_mask=frames, past_key_values=cache, use_cache=True)
    return x_BUD, queries[0], cache.present


class _BlockCache(EncoderDecoderCache):  # type: ignore[misc]
    """The library's cache for one block, made of tensors: keys and values of the encoder are there already."""

    def __init__(self, block: int, memory: _Pair, past: _Pair) -> None:
        self.past = self.present = past
        self.is_updated = {block: True}
        self.self_attention_cache: Any = self
        of_block = SimpleNamespace(keys=memory[0], values=memory[1])
        self.cross_attention_cache: Any = SimpleNamespace(layers={block: of_block})

    def update(self, key: Tensor, value: Tensor, *_: Any) -> _Pair:  # type: ignore[override]
        self.present = torch.cat([self.past[0], key], dim=2), torch.cat([self.past[1], value], dim=2)
        return self.present


def _in_heads(x_BTD: Tensor, width: int) -> Tensor:
    """Return (B, H, T, D/H)."""
    return x_BTD.unflatten(2, (-1, width)).transpose(1, 2)  # type: ignore[no-untyped-call, no-any-return]


def _share_embeddings(model: ir.Model) -> None:
    """Take the output layer's weights from the token embeddings, of which the exporter makes a transposed copy."""
    graph = model.graph
    table = next(node for node in graph if node.op_type == "Gather" and node.inputs[1] is graph.inputs[0]).inputs[0]
    product = graph.outputs[0].producer()
    assert table is not None and table.const_value is not None and product is not None
    weights = product.inputs[1]
    if product.op_type != "MatMul" or weights is None or weights.const_value is None:
        return
    if not (weights.const_value.numpy() == table.const_value.numpy().T).all():  # an output layer of its own
        return
    turned = ir.Value(name="embeddings_transposed", type=weights.type, shape=weights.shape)
    graph.insert_before(product, ir.Node("", "Transpose", [table], [ir.AttrInt64s("perm", [1, 0])], outputs=[turned]))
    product.replace_input_with(1, turned)
    del graph.initializers[weights.name]
