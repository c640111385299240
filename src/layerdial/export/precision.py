"""Smaller weights: float16 on disk, and int8 inside the branches too.

int8 weights have a scale per output channel and seven bits, not eight: on x86 CPUs without VNNI the sum of two products
of eight bits overflows its sixteen. Activations are quantised dynamically. The few convolutions stay in float. Token
embeddings that are the output layer's weights too are one tensor in int8, with a scale per token.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
from onnx_ir import tape as ir_tape

from layerdial.export.graph import branches_of
from layerdial.export.silence import silence_loggers
from layerdial.utils.temporary import temporary_folder

_LEAST_WEIGHTS = 1024  # smaller tensors, norms and biases, are not worth a cast
_LARGEST = 64  # of weights in seven bits


def to_precision(model: ir.Model, precision: str) -> ir.Model:
    """Return the graph in float32, float16 or int8."""
    if precision == "int8":
        return to_int8(model)
    return to_float16(model) if precision == "float16" else model


def to_float16(model: ir.Model) -> ir.Model:
    """Return the graph with weights in half precision, cast back at load time; computing stays in float32."""
    model = model.clone()
    graph = model.graph
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < _LEAST_WEIGHTS:
            continue
        half = ir.Value(name=f"{value.name}_half", shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT16))
        half.const_value = ir.Tensor(tensor.numpy().astype(np.float16), name=half.name)
        cast = ir.Node(
            "", "Cast", [half], [ir.AttrInt64("to", ir.DataType.FLOAT)], outputs=[ir.Value(name=f"{value.name}_wide")]
        )
        cast.outputs[0].type, cast.outputs[0].shape = value.type, value.shape
        value.replace_all_uses_with(cast.outputs[0])
        del graph.initializers[value.name]
        graph.register_initializer(half)
        graph.insert_before(next(iter(graph)), cast)
    return model


def to_int8(model: ir.Model, float_blocks: Iterable[int] = ()) -> ir.Model:
    """Return the graph with matrix products in int8, except those of `float_blocks`."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    left = [node.name for i in float_blocks for node in products_of(model, i)]
    left += [f"{name}_MatMul" for name in left]  # the quantiser's name for the product of a Gemm
    with (
        temporary_folder() as folder,
        silence_loggers("root"),
    ):  # its advice is to simplify the graph first, which loses the branches
        source, target = folder / "float.onnx", folder / "int8.onnx"
        ir.save(model, source, external_data="float.weights")
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=left,
            use_external_data_format=True,
            extra_options={"EnableSubgraph": True, "MatMulConstBOnly": True},
        )
        made = ir.load(target)
        ir.external_data.load_to_model(made)
    made.graph.sort()  # the quantiser leaves nodes in any order
    for node in [node for node in made.graph if node.op_type == "Transpose"]:
        _embeddings_to_int8(made.graph, node)
    return made


def _embeddings_to_int8(graph: ir.Graph, transpose: ir.Node) -> None:
    """Store embeddings (V, D) in int8, if `transpose` turns such a table into an output layer's weights."""
    table = transpose.inputs[0]
    if table is None or table.const_value is None:
        return
    lookups = [use.node for use in table.uses() if use.node.op_type == "Gather"]
    products = [use.node for use in transpose.outputs[0].uses() if use.node.op_type == "MatMul"]
    if not lookups:
        return
    weights_VD = table.const_value.numpy()
    scale_V = np.abs(weights_VD).max(axis=1) / _LARGEST
    scale_V[scale_V == 0] = 1.0
    small_VD = np.rint(weights_VD / scale_V[:, None]).astype(np.int8)
    small, scale = (
        _initializer(graph, f"{table.name}_{kind}", x) for kind, x in (("int8", small_VD), ("scale", scale_V))
    )
    for lookup in lookups:
        _look_up(graph, lookup, small, scale)
    for product in products:
        _multiply(graph, product, small, scale)
    graph.remove(transpose, safe=True)
    del graph.initializers[table.name]


def _initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.Tensor(array, name=name))
    value.type, value.shape = ir.TensorType(ir.DataType.from_numpy(array.dtype)), ir.Shape(array.shape)
    graph.register_initializer(value)
    return value


def _look_up(graph: ir.Graph, lookup: ir.Node, small: ir.Value, scale: ir.Value) -> None:
    """Replace a look-up by one in int8, times the scale of each token."""
    ids, tape = lookup.inputs[1], ir_tape.Tape()
    rows = tape.op("Cast", [tape.op("Gather", [small, ids])], {"to": ir.DataType.FLOAT})
    last = tape.op("Constant", [], {"value_ints": [-1]})
    _replace(graph, lookup, tape, "Mul", [rows, tape.op("Unsqueeze", [tape.op("Gather", [scale, ids]), last])])


def _multiply(graph: ir.Graph, product: ir.Node, small: ir.Value, scale: ir.Value) -> None:
    """Replace a product by one in int8, as the quantiser does: activations are quantised when they are there."""
    tape = ir_tape.Tape()
    x, x_scale, x_zero = tape.op_multi_out("DynamicQuantizeLinear", [product.inputs[0]], num_outputs=3)
    sums = tape.op("MatMulInteger", [x, tape.op("Transpose", [small], {"perm": [1, 0]}), x_zero])
    wide = tape.op("Cast", [sums], {"to": ir.DataType.FLOAT})
    _replace(graph, product, tape, "Mul", [wide, tape.op("Mul", [x_scale, scale])])


def _replace(graph: ir.Graph, node: ir.Node, tape: ir_tape.Tape, kind: str, inputs: list[ir.Value]) -> None:
    """Replace a node by those of the tape and a last one, which has its output's name."""
    old = node.outputs[0]
    new = ir.Value(name=old.name, type=old.type, shape=old.shape)
    old.name = f"{old.name}_float"
    tape.op(kind, inputs, output=new)
    graph.insert_before(node, tape.nodes)
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def products_of(model: ir.Model, block: int) -> list[ir.Node]:
    """Return the matrix products in the branches of a block."""
    branches = branches_of(model.graph, block)
    return [node for branch in branches for node in branch if node.op_type in ("MatMul", "Gemm")]
