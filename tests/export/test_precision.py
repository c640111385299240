"""Smaller weights: float16 and int8 reach into every block, and keep the texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from layerdial.data.batching import FeatureBatches
from layerdial.evaluation.evaluate import evaluate
from layerdial.export.precision import to_float16, to_int8
from layerdial.export.writer import Traced, write_folder
from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.runtime import Recognizer
from layerdial.subset import BlockSubset
from tiny import noise
from tiny_graphs import all_graphs, branches, every_subset, weight_bytes

pytest_plugins = ["tiny_export"]


def texts(recognizer: Recognizer | TorchRecognizer, cuts: Path, subset: BlockSubset) -> tuple[str, ...]:
    return evaluate(recognizer, FeatureBatches(cuts, recognizer.features, workers=0), subset).hypotheses


@pytest.mark.medium
def test_float16_halves_the_weights_and_keeps_the_texts(
    traced: Traced, edge: Recognizer, recognizer: TorchRecognizer, corpus: Any, tmp_path: Path
) -> None:
    half = to_float16(traced.model)
    assert weight_bytes(half) < 0.6 * weight_bytes(traced.model)
    write_folder(tmp_path / "half", traced, half, replace(traced.manifest, precision="float16"))
    ours = Recognizer(tmp_path / "half", threads=1)
    inputs, lengths_B = noise([90, 41])
    for subset in every_subset(3):
        a, b = (one.posteriors(inputs.numpy(), lengths_B.numpy(), subset)[0][0] for one in (ours.session, edge.session))
        np.testing.assert_allclose(a, b, atol=5e-2)
        assert texts(ours, corpus.dev, subset) == texts(recognizer, corpus.dev, subset)


def kinds(graph: onnx.GraphProto, weights: set[str]) -> tuple[int, int]:
    """Products with weights: in int8, in float."""
    integers = sum(node.op_type == "MatMulInteger" for node in graph.node)
    return integers, sum(node.op_type == "MatMul" and node.input[1] in weights for node in graph.node)


def saved(model: ir.Model, folder: Path) -> onnx.ModelProto:
    folder.mkdir(parents=True, exist_ok=True)
    ir.save(model, folder / "model.onnx")
    return onnx.load(folder / "model.onnx")


def block_branches(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    """By block, which its norms tell: a graph need not list its nodes in the order of the blocks."""
    found = {}
    for branch in branches(model):
        graph = branch["then_branch"]
        names = [name for node in graph.node for name in node.input if name.endswith("ff_in.norm.weight")]
        found[int(names[0].split("blocks.")[1].split(".")[0])] = graph
    return [graph for _, graph in sorted(found.items())]


@pytest.mark.parametrize("float_blocks", [(), (1,), (0, 2), (0, 1, 2)])
def test_int8_reaches_into_the_branches_of_all_blocks_but_those_left_in_float(
    traced: Traced, tmp_path: Path, float_blocks: tuple[int, ...]
) -> None:
    model = saved(to_int8(traced.model, float_blocks), tmp_path)
    weights = {tensor.name for tensor in model.graph.initializer}
    for block, graph in enumerate(block_branches(model)):
        assert kinds(graph, weights) == ((0, 8) if block in float_blocks else (8, 0))
    assert kinds(model.graph, weights) == (1, 0)  # the head


def test_int8_weights_have_a_scale_for_each_output_and_make_a_smaller_file(traced: Traced, tmp_path: Path) -> None:
    model = saved(to_int8(traced.model), tmp_path / "int8")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    products = [node for graph in all_graphs(model.graph) for node in graph.node if node.op_type == "MatMulInteger"]
    assert len(products) == 3 * 8 + 1
    for product in products:
        weight = tensors[product.input[1]]
        assert weight.data_type == onnx.TensorProto.INT8
        assert list(tensors[weight.name.replace("_quantized", "_scale")].dims) == [weight.dims[1]]
        assert np.abs(onnx.numpy_helper.to_array(weight)).max() <= 64  # seven bits: no sum of two products overflows
    assert weight_bytes(to_int8(traced.model)) < 0.5 * weight_bytes(traced.model)
    saved(traced.model, tmp_path / "float")
    sizes = [(tmp_path / name / "model.onnx").stat().st_size for name in ("int8", "float")]
    assert sizes[0] < sizes[1]


def test_int8_hears_what_float_hears(traced: Traced, recognizer: TorchRecognizer, corpus: Any, tmp_path: Path) -> None:
    write_folder(tmp_path / "int8", traced, to_int8(traced.model), replace(traced.manifest, precision="int8"))
    ours = Recognizer(tmp_path / "int8", threads=1)
    for depth in (1, 2, 3):
        assert texts(ours, corpus.dev, ours.subset(depth)) == texts(recognizer, corpus.dev, ours.subset(depth))
