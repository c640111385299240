"""Graphs for runtimes that run one depth: the blocks of a subset without the choices, and inputs of their own."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir import tape as ir_tape
from onnx_ir.passes.common import RemoveUnusedNodesPass

from layerdial.export.graph import block_choices
from layerdial.runtime.session import GATES
from layerdial.subset import BlockSubset


def fix_subset(model: ir.Model, *subsets: BlockSubset) -> ir.Model:
    """Return a copy in which the kept blocks always run: one branch for every `If`, and no inputs of gates.

    Each input of gates has its subset, in their order.
    """
    model = model.clone()
    graph = model.graph
    gates = [value for value in graph.inputs if value.name in GATES]
    runs = [block in subset for subset in subsets for block in range(subset.n_blocks)]
    choices = block_choices(graph)
    for choice, kept in zip(choices, runs, strict=True):
        _take_branch(graph, choice, "then_branch" if kept else "else_branch")
    for gate, subset in zip(gates, subsets, strict=True):
        if gate.uses():  # a head for each depth is looked up by how many blocks run
            tape = ir_tape.Tape()
            kept_N = constant(tape, [int(block in subset) for block in range(subset.n_blocks)])
            gate.replace_all_uses_with(tape.op("Cast", [kept_N], {"to": ir.DataType.BOOL}))
            put_first(model, tape)
    RemoveUnusedNodesPass()(model)
    for gate in gates:
        graph.inputs.remove(gate)
    return model


def _take_branch(graph: ir.Graph, choice: ir.Node, name: str) -> None:
    """Put the nodes of one branch in the place of an `If`."""
    branch = choice.attributes[name].as_graph()
    made = list(branch.outputs)
    branch.outputs.clear()
    nodes = list(branch)
    branch.remove(nodes)
    graph.insert_before(choice, nodes)
    for output, value in zip(choice.outputs, made, strict=True):
        output.replace_all_uses_with(value, replace_graph_outputs=True)
    _forget_inputs(choice)
    graph.remove(choice, safe=True)


def _forget_inputs(choice: ir.Node) -> None:
    """Make the nodes of all branches use nothing, so that what only the branch not taken used can go."""
    for attribute in choice.attributes.values():
        for node in attribute.as_graph():
            for i in range(len(node.inputs)):
                node.replace_input_with(i, None)


def constant(tape: ir_tape.Tape, values: Sequence[int]) -> ir.Value:
    """Return whole numbers (n,) int64."""
    return tape.op("Constant", [], {"value_ints": list(values)})


def put_first(model: ir.Model, tape: ir_tape.Tape) -> None:
    """Insert the nodes of a tape before all others."""
    model.graph.insert_before(next(iter(model.graph)), list(tape.nodes))
