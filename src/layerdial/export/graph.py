"""One ONNX graph with a depth dial: every block an `If` branch, so that a dropped block is not computed.

The network is traced once with all its blocks. After each comes a choice between its output and what the skip rule
leaves of it. Whatever only one side of a choice needs is then moved into a branch of an `If`. (`torch.cond` would
express the same; it traces every branch by itself, takes three times as long, and copies weights.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset23 as op
from torch import Tensor, nn

from layerdial.export.silence import silence_loggers
from layerdial.models.dynamic import Gates
from layerdial.models.network import Network
from layerdial.runtime.session import GATES, INPUTS, OUTPUTS

OPSET = 23
FREE = torch.export.Dim.DYNAMIC


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
    shapes = {"x": {0: FREE, 1: FREE}, "x_lens": {0: FREE}, "gates": None}
    model = trace_module(_Gated(network), (x, lengths_B, gates_N), shapes, INPUTS, OUTPUTS)
    blocks_to_branches(model, network.n_blocks)
    _name_axes(model)
    return model


def trace_module(
    module: nn.Module, arguments: tuple[Any, ...], shapes: dict[str, Any], inputs: Sequence[str], outputs: Sequence[str]
) -> ir.Model:
    """Return the graph of a module in evaluation mode; `shapes` says by argument which axes are `FREE`."""
    with silence_loggers("torch.onnx", "onnxscript"), torch.no_grad():
        exported = torch.export.export(module.eval(), arguments, dynamic_shapes=shapes)
        program = torch.onnx.export(
            exported,
            dynamo=True,
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            verbose=False,
            custom_translation_table={
                torch.ops.aten.scaled_dot_product_attention.default: _attention,
                torch.ops.aten.floor_divide.default: _divide_lengths,
                torch.ops.aten.masked_fill.Scalar: _fill,
            },
        )
    assert program is not None
    return program.model  # type: ignore[no-any-return]


def blocks_to_branches(model: ir.Model, n_choices: int) -> None:
    """Turn the choices by each gate into an `If`, the last first, and move into its branches what only they need.

    `n_choices` is the number of blocks, and of values made of gates by which more is chosen. Choices inside a branch
    become an `If` in there: their gates must come before that of the branch.
    """
    graph = model.graph
    choices: dict[ir.Value, list[ir.Node]] = {}
    for node in graph:
        if node.op_type == "Where" and _is_gate(node.inputs[0], graph):
            assert node.inputs[0] is not None
            choices.setdefault(node.inputs[0], []).append(node)
    if len(choices) != n_choices:  # if the exporter folded one away, a gate would have no effect
        raise RuntimeError(f"the exporter left {len(choices)} choices, expected {n_choices}")
    for gate, of_block in reversed(choices.items()):  # so that what a later block needs is where it belongs
        inside = of_block[0].graph
        assert isinstance(inside, ir.Graph)
        _to_branch(inside, gate, of_block)
    for i, node in enumerate(graph.all_nodes()):
        node.name = f"{node.op_type}_{i}"


def block_choices(graph: ir.Graph) -> list[ir.Node]:
    """Return the `If` of each block, in order: its condition is taken from an input of gates as it is."""
    return [node for node in graph if node.op_type == "If" and _is_element(node.inputs[0], graph)]


def branches_of(graph: ir.Graph, block: int) -> list[ir.Graph]:
    """Return the branches of what runs for a block: its own; in a streaming graph also what projects its past."""
    own = block_choices(graph)
    others = [node for node in graph if node.op_type == "If" and node not in own]
    inside = [[node for node in _then(other) if node.op_type == "If"] for other in others]
    return [_then(own[block]), *(_then(choices[block]) for choices in inside)]


def _then(choice: ir.Node) -> ir.Graph:
    return choice.attributes["then_branch"].as_graph()


def _is_element(value: ir.Value | None, graph: ir.Graph) -> bool:
    node = value.producer() if value is not None else None
    return node is not None and node.op_type == "Gather" and node.inputs[0] in graph.inputs


def _is_gate(value: ir.Value | None, graph: ir.Graph) -> bool:
    """Return whether a value is made of an input of gates."""
    while value is not None and value not in graph.inputs:
        node = value.producer()
        value = node.inputs[0] if node is not None and node.inputs else None
    return value is not None and value.name in GATES


def _to_branch(graph: ir.Graph, gate: ir.Value, choices: list[ir.Node]) -> None:
    """Put an `If` in the place of choices by one gate, which stand one after the other behind all that they need."""
    outputs = [choice.outputs[0] for choice in choices]
    sides = ((1, "runs"), (2, "left"))
    branches = [_branch(graph, choices, side, f"{outputs[0].name}_{name}") for side, name in sides]
    made = ir.Node(
        "",
        "If",
        [gate],
        [ir.AttrGraph("then_branch", branches[0]), ir.AttrGraph("else_branch", branches[1])],
        outputs=[ir.Value(name=output.name, type=output.type, shape=output.shape) for output in outputs],
        name=f"choice_{outputs[0].name}",
    )
    graph.insert_before(choices[0], made)
    for choice, output, new in zip(choices, outputs, made.outputs, strict=True):
        output.replace_all_uses_with(new, replace_graph_outputs=True)
        graph.remove(choice, safe=True)


def _branch(graph: ir.Graph, choices: list[ir.Node], side: int, name: str) -> ir.Graph:
    """Return a graph of the nodes that only this side of the choices needs, taken out of the whole graph.

    It has a node for each of its outputs, at least.
    """
    values = [choice.inputs[side] for choice in choices]
    inside = _needed_only_by(graph, choices, side)
    for choice in choices:
        choice.replace_input_with(side, None)
    for node in inside:
        graph.remove(node)
    nodes, outputs = list(inside), list[ir.Value]()
    for i, value in enumerate(values):
        assert value is not None
        if value.producer() not in inside or value in outputs:
            ending = f"_{i}" if i else ""
            copy = ir.Value(name=f"{name}{ending}", type=value.type, shape=value.shape)
            nodes.append(ir.Node("", "Identity", [value], outputs=[copy]))
            value = copy
        outputs.append(value)
    return ir.Graph([], outputs, nodes=nodes, name=name)


def _needed_only_by(graph: ir.Graph, choices: list[ir.Node], side: int) -> list[ir.Node]:
    """Return the nodes, in order, whose outputs are used only by this input of the choices or by other such nodes."""
    inside: set[ir.Node] = set()
    ordered: list[ir.Node] = []
    found = False
    for node in reversed(graph):
        if node in choices:
            found = True
        elif found and _is_needed_only_by(node, choices, side, inside):
            inside.add(node)
            ordered.append(node)
    return ordered[::-1]


def _is_needed_only_by(node: ir.Node, choices: list[ir.Node], side: int, inside: set[ir.Node]) -> bool:
    uses = [use for output in node.outputs for use in output.uses()]
    if not uses or any(output.is_graph_output() for output in node.outputs):
        return False
    return all(use.node in inside or (use.node in choices and use.idx == side) for use in uses)


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
