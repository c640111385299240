"""One ONNX graph with a depth dial: every block an `If` branch, so that a dropped block is not computed.

The network is traced once with all its blocks. After each comes a choice between its output and what the skip rule
leaves of it. Whatever only one side of a choice needs is then moved into a branch of an `If`. (`torch.cond` would
express the same; it traces every branch by itself, takes three times as long, and copies weights.)
"""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset23 as op
from torch import Tensor, nn

from layerdial.export.silence import silence_loggers
from layerdial.models.dynamic import Gates
from layerdial.models.network import Network
from layerdial.runtime.session import INPUTS, OUTPUTS

OPSET = 23


class _Gated(nn.Module):
    """The network with its subset as a third input."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, x_lens: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        output = self.network(x, x_lens, Gates(self.network.n_blocks, gates))
        return output.log_probs_BTV, output.lengths_B


def to_onnx(network: Network) -> ir.Model:
    """Return the graph of a network with `x` (B, T, F) or (B, S), `x_lens` (B,) int64 and `gates` (N,) bool as inputs.

    Its outputs are `log_probs` (B, T', V) and their lengths. Batch and time are free. The network is put into `eval()`;
    it must be on the CPU and in float32.
    """
    inputs, _ = network.example_inputs(2.0)
    x = torch.cat([inputs, 0.5 * inputs])  # sizes of one would be taken for constants
    lengths_B = torch.tensor([x.shape[1], x.shape[1] - x.shape[1] // 4])
    gates_N = torch.ones(network.n_blocks, dtype=torch.bool)
    free = torch.export.Dim.DYNAMIC
    with silence_loggers("torch.onnx", "onnxscript"), torch.no_grad():
        exported = torch.export.export(
            _Gated(network).eval(),
            (x, lengths_B, gates_N),
            dynamic_shapes={"x": {0: free, 1: free}, "x_lens": {0: free}, "gates": None},
        )
        program = torch.onnx.export(
            exported,
            dynamo=True,
            input_names=INPUTS,
            output_names=OUTPUTS,
            opset_version=OPSET,
            verbose=False,
            custom_translation_table={
                torch.ops.aten.scaled_dot_product_attention.default: _attention,
                torch.ops.aten.floor_divide.default: _divide_lengths,
                torch.ops.aten.masked_fill.Scalar: _fill,
            },
        )
    assert program is not None
    model: ir.Model = program.model
    blocks_to_branches(model, network.n_blocks)
    _name_axes(model)
    return model


def blocks_to_branches(model: ir.Model, n_blocks: int) -> None:
    """Turn each choice by a gate into an `If`, block after block, and move into its branches what only they need."""
    graph = model.graph
    choices = [node for node in graph if node.op_type == "Where" and _is_gate(node.inputs[0], graph)]
    if len(choices) != n_blocks:  # if the exporter folded one away, a gate would have no effect
        raise RuntimeError(f"the exporter left {len(choices)} choices of {n_blocks} blocks")
    for choice in reversed(choices):  # the last first: what a later block needs is then where it belongs
        _to_branch(graph, choice)
    for i, node in enumerate(graph.all_nodes()):
        node.name = f"{node.op_type}_{i}"


def _is_gate(value: ir.Value | None, graph: ir.Graph) -> bool:
    """Return whether a value is taken from the input `gates`."""
    while value is not None and value not in graph.inputs:
        node = value.producer()
        value = node.inputs[0] if node is not None and node.inputs else None
    return value is not None and value.name == INPUTS[2]


def _to_branch(graph: ir.Graph, choice: ir.Node) -> None:
    gate = choice.inputs[0]
    output = choice.outputs[0]
    branches = [_branch(graph, choice, side, f"{output.name}_{name}") for side, name in ((1, "runs"), (2, "left"))]
    made = ir.Node(
        "",
        "If",
        [gate],
        [ir.AttrGraph("then_branch", branches[0]), ir.AttrGraph("else_branch", branches[1])],
        outputs=[ir.Value(name=output.name, type=output.type, shape=output.shape)],
        name=f"choice_{output.name}",
    )
    graph.insert_before(choice, made)
    output.replace_all_uses_with(made.outputs[0], replace_graph_outputs=True)
    graph.remove(choice, safe=True)


def _branch(graph: ir.Graph, choice: ir.Node, side: int, name: str) -> ir.Graph:
    """Return a graph of the nodes that only this side of the choice needs, taken out of the whole graph.

    It has at least one node, which gives its output.
    """
    value = choice.inputs[side]
    assert value is not None
    inside = _needed_only_by(graph, choice, side)
    choice.replace_input_with(side, None)
    for node in inside:
        graph.remove(node)
    if value.producer() not in inside:
        copy = ir.Node("", "Identity", [value], outputs=[ir.Value(name=name, type=value.type, shape=value.shape)])
        inside, value = [*inside, copy], copy.outputs[0]
    return ir.Graph([], [value], nodes=inside, name=name)


def _needed_only_by(graph: ir.Graph, choice: ir.Node, side: int) -> list[ir.Node]:
    """Return the nodes, in order, whose outputs are used only by this input of the choice or by other such nodes."""
    inside: set[ir.Node] = set()
    ordered: list[ir.Node] = []
    found = False
    for node in reversed(graph):
        if node is choice:
            found = True
        elif found and _is_needed_only_by(node, choice, side, inside):
            inside.add(node)
            ordered.append(node)
    return ordered[::-1]


def _is_needed_only_by(node: ir.Node, choice: ir.Node, side: int, inside: set[ir.Node]) -> bool:
    uses = [use for output in node.outputs for use in output.uses()]
    if not uses or any(output.is_graph_output() for output in node.outputs):
        return False
    return all(use.node in inside or (use.node is choice and use.idx == side) for use in uses)


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Return scaled dot-product attention as one node.

    torch's own translation makes several nodes, with a guard for rows in which everything is masked. There are none,
    since every utterance has a real frame, and the guard costs as much as the softmax.
    """
    if is_causal or enable_gqa:
        raise NotImplementedError("attention in an exported graph is neither causal nor grouped")
    if attn_mask is not None and attn_mask.shape[-2] == 1:  # the node needs a row of the mask for each query
        queries = op.Concat(
            op.Constant(value_ints=[1, 1]), op.Shape(query, start=2, end=3), op.Constant(value_ints=[1]), axis=0
        )
        attn_mask = op.Expand(attn_mask, queries)
    made, *_ = op.Attention(query, key, value, attn_mask, scale=scale or 1.0 / math.sqrt(query.shape[-1]))
    return made


def _divide_lengths(lengths: Any, divisor: Any) -> Any:
    """Divide whole numbers in one node: lengths are not negative, because features pad what is too short."""
    return op.Div(lengths, op.CastLike(divisor, lengths))


def _fill(values: Any, mask: Any, value: Any) -> Any:
    """Set padding to zero by a product, several times as fast as a choice; for other values use a choice."""
    if isinstance(value, float | int) and value == 0 and values.dtype == ir.DataType.FLOAT:
        return op.Mul(values, op.CastLike(op.Not(mask), values))
    return op.Where(mask, op.CastLike(value, values), values)


def _name_axes(model: ir.Model) -> None:
    """Name the free axes of inputs and outputs by their meaning."""
    x, lengths, _ = model.graph.inputs
    log_probs, frames = model.graph.outputs
    assert x.shape is not None and log_probs.shape is not None
    x.shape = ir.Shape(["batch", "time", *x.shape[2:]])
    lengths.shape = frames.shape = ir.Shape(["batch"])
    log_probs.shape = ir.Shape(["batch", "frames", log_probs.shape[2]])
