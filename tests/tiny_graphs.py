"""What the tests of exported graphs share: comparison with torch, a look into graphs, and a block that int8 ruins."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch

from layerdial.export.precision import to_float16, to_int8
from layerdial.export.writer import Traced
from layerdial.models.network import Network
from layerdial.runtime.session import Session
from layerdial.subset import BlockSubset
from tiny import noise

CLOSE = 1e-4  # log-probabilities; sums in another order differ by less


def every_subset(n_blocks: int) -> list[BlockSubset]:
    kept = chain.from_iterable(combinations(range(n_blocks), depth) for depth in range(1, n_blocks + 1))
    return [BlockSubset(n_blocks, blocks) for blocks in kept]


def assert_as_torch(session: Session, network: Network, lengths: Sequence[int], subset: BlockSubset) -> None:
    inputs, lengths_B = noise(lengths, seed=len(lengths))
    ours_BTV, frames_B = session.posteriors(inputs.numpy(), lengths_B.numpy(), subset)
    with torch.inference_mode():
        theirs_BTV, expected_B, _ = network(inputs, lengths_B, subset)
    assert frames_B.tolist() == expected_B.tolist() == [(length + 3) // 4 for length in lengths]
    for ours, theirs, frames in zip(ours_BTV, theirs_BTV.numpy(), frames_B, strict=True):
        assert np.isfinite(ours[:frames]).all()
        np.testing.assert_allclose(ours[:frames], theirs[:frames], atol=CLOSE)


def branches(model: onnx.ModelProto) -> list[dict[str, onnx.GraphProto]]:
    """The two branches of each block, in the order in which the blocks follow each other."""
    ifs = [node for node in model.graph.node if node.op_type == "If"]
    return [{attribute.name: attribute.g for attribute in node.attribute} for node in ifs]


def all_graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    inner = [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return [graph, *chain.from_iterable(map(all_graphs, inner))]


def precise(model: ir.Model, precision: str) -> ir.Model:
    return {"float32": lambda model: model, "float16": to_float16, "int8": to_int8}[precision](model)


def weight_bytes(model: ir.Model) -> int:
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def with_outliers(traced: Traced, block: int) -> Traced:
    """The same model with six huge weights for each output of a feed-forward module, which cancel out.

    One is as large as the five others together, and the six hidden units that they weigh are equal. In float nothing
    comes of it. In int8 the one is 64 steps, each of the others 12.8, which is rounded.
    """
    network, model = deepcopy(traced.network), traced.model.clone()
    expand, contract = network.blocks[block].ff_out.expand, network.blocks[block].ff_out.contract
    huge_D = 100.0 * torch.randn(contract.out_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expand.weight[:6], expand.bias[:6] = 0.0, 5.0
        contract.weight[:, 0] = huge_D
        contract.weight[:, 1:6] = -huge_D.unsqueeze(1) / 5
    choices = [node for node in model.graph if node.op_type == "If"]
    branch = choices[block].attributes["then_branch"].as_graph()
    into, out_of = [node for node in branch if node.op_type == "MatMul"][-2:]
    changed = {
        into.inputs[1]: expand.weight.T,
        into.outputs[0].consumers()[0].inputs[1]: expand.bias,
        out_of.inputs[1]: contract.weight.T,
    }
    for value, content in changed.items():
        value.const_value = ir.Tensor(content.detach().contiguous().numpy(), name=value.name)
    return replace(traced, network=network, model=model)
