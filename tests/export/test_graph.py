"""The exported graph computes what torch computes, with every subset, and nothing of a block that is dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from layerdial.export.export import export_model
from layerdial.export.fixed import fix_subset
from layerdial.export.graph import FREE, trace_module
from layerdial.export.writer import Traced
from layerdial.ladder import Ladder
from layerdial.models.checkpoint import load_network, save_model
from layerdial.models.cost import subset_cost
from layerdial.models.network import Network
from layerdial.modules.normalisation import FixedNorm
from layerdial.runtime.manifest import Manifest
from layerdial.runtime.session import INPUTS, OUTPUTS, Session
from layerdial.subset import BlockSubset
from layerdial.text.tokenizer import build_tokenizer
from tiny import VOCABULARY, noise, tiny_network
from tiny_golden import MODEL, Export
from tiny_graphs import CLOSE, assert_as_torch, branches, every_subset

pytest_plugins = ["tiny_export"]


LETTERS = ["abcde"]  # with the blank and the space as many tokens as the tiny networks know


def save(folder: Path, network: Network) -> Path:
    tokenizer = build_tokenizer("char", LETTERS)
    assert len(tokenizer.tokens) == VOCABULARY
    save_model(folder, network, tokenizer, {"commit": "0123abc"})
    return folder


def assert_fixed_is_the_same(file: Path, session: Session, subset: BlockSubset) -> None:
    """The graph of these blocks alone, which sherpa-onnx is given, makes what the one with the dial makes."""
    inputs, lengths_B = noise([61, 40])
    alone = onnxruntime.InferenceSession(ir.to_proto(fix_subset(ir.load(file), subset)).SerializeToString())
    made_BTV, _ = alone.run(None, {"x": inputs.numpy(), "x_lens": lengths_B.numpy()})
    dialled_BTV, _ = session.posteriors(inputs.numpy(), lengths_B.numpy(), subset)
    np.testing.assert_allclose(made_BTV, dialled_BTV, atol=CLOSE)


@pytest.fixture(scope="module")
def session(exported: Path) -> Session:
    return Session(exported, Manifest.load(exported), threads=1)


@pytest.fixture(scope="module")
def network(traced: Traced) -> Network:
    return traced.network


@pytest.mark.parametrize("subset", every_subset(3), ids=lambda subset: subset.key)
def test_every_subset_of_a_padded_batch_equals_torch(session: Session, network: Network, subset: BlockSubset) -> None:
    assert_as_torch(session, network, [61, 128, 7], subset)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 8, 9, 31, 199, 201])
def test_any_length_equals_torch(session: Session, network: Network, length: int) -> None:
    for subset in every_subset(3)[::3]:
        assert_as_torch(session, network, [length], subset)


def test_every_rung_of_the_ladder_equals_torch(session: Session, network: Network, exported: Path) -> None:
    ladder = Ladder.load(exported / "ladder.json", 3)
    for depth in (1, 2, 3):
        assert_as_torch(session, network, [90, 33], ladder.subset(depth))


@pytest.mark.parametrize("batch", [1, 2, 5, 11])
def test_batches_of_any_size_equal_torch(session: Session, network: Network, batch: int) -> None:
    lengths = np.random.default_rng(batch).integers(1, 80, batch).tolist()
    assert_as_torch(session, network, lengths, BlockSubset(3, (0, 2)))


def test_audio_far_longer_than_what_was_traced_equals_torch(session: Session, network: Network) -> None:
    assert_as_torch(session, network, [6001], BlockSubset.full(3))  # a minute; two seconds were traced
    assert_as_torch(session, network, [2500, 37], BlockSubset(3, (1,)))


def test_padding_does_not_change_what_an_utterance_gets(session: Session) -> None:
    inputs, lengths_B = noise([120, 45, 1])
    inputs = inputs.numpy()
    together, frames_B = session.posteriors(inputs, lengths_B.numpy(), BlockSubset.full(3))
    for row, length, frames, found in zip(inputs, lengths_B.tolist(), frames_B, together, strict=True):
        alone, _ = session.posteriors(row[None, :length], np.array([length]), BlockSubset.full(3))
        np.testing.assert_allclose(found[:frames], alone[0], atol=CLOSE)


NORM = {"block_norm": True, "skip": "norm"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"n_blocks": 2, "exit_heads": True, "normalise": "speech", **NORM},
        pytest.param({"n_blocks": 2, "self_condition": True}, marks=pytest.mark.slow),
        pytest.param({"n_blocks": 2, "exit_heads": True}, marks=pytest.mark.slow),
        pytest.param({"n_blocks": 1, "normalise": "fixed"}, marks=pytest.mark.slow),
        pytest.param({"n_blocks": 1}, marks=pytest.mark.slow),  # each traces another model, ten seconds
        pytest.param({"n_blocks": 3, "block_norm": True}, marks=pytest.mark.slow),
        pytest.param({"n_blocks": 4, "block_norm": True, "skip": "norm"}, marks=pytest.mark.slow),
    ],
    ids=lambda changes: "-".join(f"{name}_{value}" for name, value in changes.items()),
)
def test_other_conformers_equal_torch_with_every_subset(tmp_path: Path, changes: dict[str, Any]) -> None:
    network = tiny_network(**changes)
    manifest = export_model(save(tmp_path / "run" / "model", network), tmp_path / "edge")
    assert_exported_equals(tmp_path / "edge", network)
    assert (manifest.name, manifest.licence, manifest.skip) == ("run", "not stated", network.config.skip)
    assert "commit 0123abc" in manifest.trained_with


def test_a_self_conditioned_conformer_equals_torch_with_every_subset(exported_old: Export) -> None:
    network, _ = load_network(MODEL)
    assert network.config.self_condition
    assert_exported_equals(exported_old.folder, network)


@pytest.mark.medium
def test_the_statistics_of_a_corpus_go_into_the_graph() -> None:
    """Traced by itself: what follows it in such a network is as in the others."""
    norm, (inputs, lengths_B) = FixedNorm(80), noise([61, 40, 1])
    norm.set_statistics(torch.linspace(-9.0, 3.0, 80), torch.linspace(0.2, 4.0, 80))
    free = {"x_BTF": {0: FREE, 1: FREE}, "lengths_B": {0: FREE}}
    graph = trace_module(norm, (inputs[:2], lengths_B[:2]), free, INPUTS[:2], OUTPUTS[:1])
    alone = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString())
    (made_BTF,) = alone.run(None, {"x": inputs.numpy(), "x_lens": lengths_B.numpy()})
    np.testing.assert_allclose(made_BTF, norm(inputs, lengths_B).numpy(), atol=1e-6)


def assert_exported_equals(edge: Path, network: Network) -> None:
    manifest = Manifest.load(edge)
    session = Session(edge, manifest, threads=1)
    for subset in every_subset(network.n_blocks):
        assert_as_torch(session, network, [50, 83, 3], subset)
        assert_fixed_is_the_same(edge / "model.onnx", session, subset)
        assert manifest.costs.of(subset).parameters == subset_cost(network, subset).parameters


# ------------------------------------------------------------------------------------------- a dropped block is not run


def nodes_that_ran(file: Path, subset: BlockSubset, folder: Path, level: Any) -> list[dict[str, Any]]:
    """ONNX Runtime's own record of the kernels of one run."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    inputs, lengths_B = noise([60])
    gates_N = np.array([i in subset for i in range(subset.n_blocks)])
    session.run(None, dict(zip(INPUTS, (inputs.numpy(), lengths_B.numpy(), gates_N), strict=True)))
    events = json.loads(Path(session.end_profiling()).read_text())
    return [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]


@pytest.mark.parametrize("subset", every_subset(3), ids=lambda subset: subset.key)
def test_the_kernels_of_exactly_the_kept_blocks_run(exported: Path, tmp_path: Path, subset: BlockSubset) -> None:
    as_written = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # so that nodes keep their names
    ran = {
        event["name"].removesuffix("_kernel_time")
        for event in nodes_that_ran(exported / "model.onnx", subset, tmp_path, as_written)
    }
    for block, branch in enumerate(branches(onnx.load(exported / "model.onnx"))):
        own = {node.name for node in branch["then_branch"].node if node.op_type != "Constant"}
        assert len(own) > 20
        assert own <= ran if block in subset else not own & ran


def test_each_dropped_block_takes_its_products_with_it_also_when_optimised(exported: Path, tmp_path: Path) -> None:
    fully = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL

    def products(subset: BlockSubset) -> int:
        events = nodes_that_ran(exported / "model.onnx", subset, tmp_path, fully)
        kinds = [event["args"]["op_name"] for event in events]
        return sum("MatMul" in kind or kind == "Attention" for kind in kinds)

    full = products(BlockSubset.full(3))
    assert products(BlockSubset(3, (0, 2))) == products(BlockSubset(3, (0, 1))) == full - 9
    assert products(BlockSubset(3, (1,))) == full - 18


def test_inputs_and_outputs_are_what_other_programs_rely_on(exported: Path) -> None:
    session = onnxruntime.InferenceSession(str(exported / "model.onnx"), providers=["CPUExecutionProvider"])
    found = [(value.name, value.type, value.shape) for value in [*session.get_inputs(), *session.get_outputs()]]
    vocabulary = len((exported / "tokens.txt").read_text().splitlines())
    assert found == [
        ("x", "tensor(float)", ["batch", "time", 80]),
        ("x_lens", "tensor(int64)", ["batch"]),
        ("gates", "tensor(bool)", [3]),
        ("log_probs", "tensor(float)", ["batch", "frames", vocabulary]),
        ("log_probs_lens", "tensor(int64)", ["batch"]),
    ]
    assert (INPUTS, OUTPUTS) == (("x", "x_lens", "gates"), ("log_probs", "log_probs_lens"))
