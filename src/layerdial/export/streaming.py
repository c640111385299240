"""One ONNX graph of a streaming Conformer: a chunk, its depth and the caches in, log-probabilities and what is new out.

Blocks are `If` branches as in any export. So is the projection of what blocks that run again have kept raw. Caches do
not come out again: a runtime puts what is new behind what it has, so that a skipped block's past is never copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor, nn

from layerdial.audio.kaldi_fbank import N_MELS
from layerdial.config.network import FRAME_MS
from layerdial.errors import UserError
from layerdial.export.graph import FREE, block_choices, blocks_to_branches, trace_module
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.models.dynamic import Gates
from layerdial.models.network import EncoderOutput, Network
from layerdial.models.streaming import Caches, traced_step
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
        open_ = Gates(self.network.n_blocks, gates)
        output, added, caught = traced_step(self.network, x, x_lens, open_, Caches(*caches))
        return output.log_probs_BTV, output.lengths_B, *added, *caught


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
    _take_pasts_apart(model.graph)
    blocks_to_branches(model, 3 * network.n_blocks + 1)
    _leave_out_what_nobody_missed(model.graph)
    _leave_out_what_is_skipped(model)
    _name_axes(model)
    return model


def _take_pasts_apart(graph: ir.Graph) -> None:
    """Give each that takes a block's past a node of its own for it, so that it is copied in a branch, or not at all."""
    caches = [value for value in graph.inputs if value.name in ("keys", "gated")]
    taken = [node for node in graph if node.op_type == "Gather" and node.inputs[0] in caches]
    for node in taken:
        for i, use in enumerate(list(node.outputs[0].uses())[1:]):
            value = ir.Value(
                name=f"{node.outputs[0].name}_own{i}", type=node.outputs[0].type, shape=node.outputs[0].shape
            )
            copy = ir.Node("", "Gather", node.inputs, list(node.attributes.values()), outputs=[value])
            graph.insert_after(node, copy)
            use.node.replace_input_with(use.idx, value)


def _leave_out_what_nobody_missed(graph: ir.Graph) -> None:
    """Let the outputs of what has caught up be empty where no block has: torch can trace one shape alone."""
    caught = graph.outputs[-2:]
    choice = caught[0].producer()
    assert choice is not None and choice.op_type == "If" and caught[1].producer() is choice
    name, nodes = choice.attributes["else_branch"].as_graph().name, list[ir.Node]()
    for i, value in enumerate(caught):
        empty = ir.AttrTensor("value", ir.tensor(np.zeros((0, 0, 0, 0), np.float32)))
        made = ir.Value(name=f"{name}_empty_{i}", type=value.type, shape=ir.Shape([0, 0, 0, 0]))
        nodes.append(ir.Node("", "Constant", [], [empty], outputs=[made], name=f"{name}_Constant_{i}"))
    branch = ir.Graph([], [node.outputs[0] for node in nodes], nodes=nodes, name=name)
    choice.attributes["else_branch"] = ir.AttrGraph("else_branch", branch)


def _leave_out_what_is_skipped(model: ir.Model) -> None:
    """Let a skipped block add no rows: what it keeps is what came out of the last block before it that ran."""
    graph = model.graph
    entering = next(value for value in graph.outputs if value.name == "entering")
    zero, first_axis, widths = (
        ir.Value(name=f"nothing_{name}", const_value=ir.tensor(np.array(held, np.int64), name=f"nothing_{name}"))
        for name, held in (("end", [0]), ("axis", [0]), ("widths", [1, 1, 1, 4]))
    )
    for value in (zero, first_axis, widths):
        graph.register_initializer(value)
    one = ir.Node("", "Unsqueeze", [entering, first_axis], name="nothing_Unsqueeze")
    none = ir.Node("", "Slice", [one.outputs[0], zero, zero, first_axis], name="nothing_Slice")
    wide = ir.Node("", "Tile", [none.outputs[0], widths], name="nothing_Tile")
    for node in (one, none, wide):
        node.outputs[0].name, node.outputs[0].type = f"{node.name}_rows", entering.type
    first, *_ = choices = block_choices(graph)
    graph.insert_before(first, [one, none, wide])
    for choice in choices:
        branch = choice.attributes["else_branch"].as_graph()
        old = branch.outputs[1]
        new = ir.Node("", "Identity", [wide.outputs[0]], name=f"{choice.name}_nothing")
        new.outputs[0].name, new.outputs[0].type = f"{old.name}_nothing", old.type
        branch.append(new)
        branch.outputs[1] = new.outputs[0]
        choice.outputs[1].shape = None  # one row, or none
    RemoveUnusedNodesPass()(model)


def _name_axes(model: ir.Model) -> None:
    """Name the free axes of inputs and outputs by their meaning."""
    x, lengths, _, *caches = model.graph.inputs
    log_probs, frames, *front, entering, added, caught_keys, caught_gated = model.graph.outputs
    x.shape = _named(x, ["streams", "time"])
    lengths.shape = frames.shape = ir.Shape(["streams"])
    log_probs.shape = _named(log_probs, ["streams", "frames"])
    for value in front:
        value.shape = _named(value, ["streams"])
    for axis, value in zip(STREAM_AXES, caches, strict=True):
        value.shape = _named(value, [*list(value.shape or ())[:axis], "streams"])
    entering.shape = _named(entering, ["streams", "frames"])
    added.shape = _named(added, ["running", "streams", "frames"])
    for value in (caught_keys, caught_gated):  # all, or nothing
        value.shape = ir.Shape([None] * 4)


def _named(value: ir.Value, first: list[str | int]) -> ir.Shape:
    """Return the shape of a value with other first sizes."""
    return ir.Shape([*first, *list(value.shape or ())[len(first) :]])


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
