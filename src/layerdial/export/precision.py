"""Smaller weights: float16 on disk, and int8 inside the branches too.

int8 weights have a scale per output channel and seven bits, not eight: on x86 CPUs without VNNI the sum of two products
of eight bits overflows its sixteen. Activations are quantised dynamically. The few convolutions stay in float.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from layerdial.export.silence import silence_loggers
from layerdial.utils.temporary import temporary_folder

_LEAST_WEIGHTS = 1024  # smaller tensors, norms and biases, are not worth a cast


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
    return made


def products_of(model: ir.Model, block: int) -> list[ir.Node]:
    """Return the matrix products in the branch of a block."""
    choices = [node for node in model.graph if node.op_type == "If"]
    branch = choices[block].attributes["then_branch"].as_graph()
    return [node for node in branch if node.op_type in ("MatMul", "Gemm")]
