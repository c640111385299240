"""The exported graph computes what torch computes, with every subset, and nothing of a block that is dropped."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from layerdial import __version__
from layerdial.data.batching import FeatureBatches
from layerdial.errors import UserError
from layerdial.evaluation.evaluate import evaluate
from layerdial.export import writer as export_folder
from layerdial.export.export import export_model, export_sherpa
from layerdial.export.precision import to_float16, to_int8
from layerdial.export.quality import Int8, quantise
from layerdial.export.sherpa import fix_subset
from layerdial.export.writer import Traced, trace, write_folder
from layerdial.ladder import Ladder
from layerdial.models.checkpoint import fingerprint, load_network, save_model
from layerdial.models.cost import subset_cost
from layerdial.models.network import Network
from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.runtime import Recognizer
from layerdial.runtime.manifest import Manifest
from layerdial.runtime.session import INPUTS, OUTPUTS, Session
from layerdial.subset import BlockSubset
from layerdial.text.tokenizer import build_tokenizer
from tiny import VOCABULARY, Ended, in_child, noise, tiny_network
from tiny_golden import MODEL, Export

pytest_plugins = ["tiny_export"]

CLOSE = 1e-4  # log-probabilities; sums in another order differ by less
LETTERS = ["abcde"]  # with the blank and the space as many tokens as the tiny networks know


def every_subset(n_blocks: int) -> list[BlockSubset]:
    kept = chain.from_iterable(combinations(range(n_blocks), depth) for depth in range(1, n_blocks + 1))
    return [BlockSubset(n_blocks, blocks) for blocks in kept]


def save(folder: Path, network: Network) -> Path:
    tokenizer = build_tokenizer("char", LETTERS)
    assert len(tokenizer.tokens) == VOCABULARY
    save_model(folder, network, tokenizer, {"commit": "0123abc"})
    return folder


def assert_as_torch(session: Session, network: Network, lengths: Sequence[int], subset: BlockSubset) -> None:
    inputs, lengths_B = noise(lengths, seed=len(lengths))
    ours_BTV, frames_B = session.posteriors(inputs.numpy(), lengths_B.numpy(), subset)
    with torch.inference_mode():
        theirs_BTV, expected_B, _ = network(inputs, lengths_B, subset)
    assert frames_B.tolist() == expected_B.tolist() == [(length + 3) // 4 for length in lengths]
    for ours, theirs, frames in zip(ours_BTV, theirs_BTV.numpy(), frames_B, strict=True):
        assert np.isfinite(ours[:frames]).all()
        np.testing.assert_allclose(ours[:frames], theirs[:frames], atol=CLOSE)


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


# ------------------------------------------------------------------------------------------------ equal to torch


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


@pytest.mark.medium
@pytest.mark.parametrize(
    "changes",
    [
        {"n_blocks": 2, "exit_heads": True, **NORM},
        pytest.param({"n_blocks": 2, "self_condition": True}, marks=pytest.mark.slow),
        pytest.param({"n_blocks": 2, "exit_heads": True}, marks=pytest.mark.slow),
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


def assert_exported_equals(edge: Path, network: Network) -> None:
    manifest = Manifest.load(edge)
    session = Session(edge, manifest, threads=1)
    for subset in every_subset(network.n_blocks):
        assert_as_torch(session, network, [50, 83, 3], subset)
        assert_fixed_is_the_same(edge / "model.onnx", session, subset)
        assert manifest.costs.of(subset).parameters == subset_cost(network, subset).parameters


# -------------------------------------------------------------------------------------- a dropped block is not run


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


def branches(model: onnx.ModelProto) -> list[dict[str, onnx.GraphProto]]:
    """The two branches of each block, in the order in which the blocks follow each other."""
    ifs = [node for node in model.graph.node if node.op_type == "If"]
    return [{attribute.name: attribute.g for attribute in node.attribute} for node in ifs]


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


# ------------------------------------------------------------------------------------------------- what is written


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


def test_the_graph_says_what_it_is_without_the_rest_of_the_folder(exported: Path, laddered: Path) -> None:
    session = onnxruntime.InferenceSession(str(exported / "model.onnx"), providers=["CPUExecutionProvider"])
    found = session.get_modelmeta().custom_metadata_map
    manifest = Manifest.load(exported)
    assert found["layerdial.model_id"] == manifest.model_id and len(manifest.model_id) == 16
    assert (found["n_blocks"], found["skip"], found["sample_rate"], found["tokens"]) == (
        *("3", "identity", "16000", "tokens.txt"),
    )
    assert "log-mel, 80 bins" in found["features"] and found["licence"] == "CC-BY-4.0"
    assert (found["precision"], found["vocab_size"]) == ("float32", str(manifest.vocab_size))
    commit = json.loads((laddered / "meta.json").read_text()).get("commit")
    trained_with = f"weights {fingerprint(laddered)}, " + (f"commit {commit}, " if commit else "")
    assert found["trained_with"] == trained_with + f"exported by layerdial {__version__}"


def all_graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    inner = [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return [graph, *chain.from_iterable(map(all_graphs, inner))]


def precise(model: ir.Model, precision: str) -> ir.Model:
    return {"float32": lambda model: model, "float16": to_float16, "int8": to_int8}[precision](model)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_the_file_is_good_onnx_of_the_stated_version(traced: Traced, tmp_path: Path, precision: str) -> None:
    write_folder(
        tmp_path / "edge", traced, precise(traced.model, precision), replace(traced.manifest, precision=precision)
    )
    model = onnx.load(tmp_path / "edge" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 11
    assert {opset.domain: opset.version for opset in model.opset_import}[""] == 23
    nodes = [node for graph in all_graphs(model.graph) for node in graph.node]
    names, made = [node.name for node in nodes], [name for node in nodes for name in node.output]
    assert len(set(names)) == len(names) and len(set(made)) == len(made)


def test_the_manifest_says_what_was_exported_and_how_close_it_is(exported: Path, network: Network) -> None:
    stored = json.loads((exported / "manifest.json").read_text())
    assert (stored["kind"], stored["format"], stored["precision"]) == ("layerdial-onnx", 1, "float32")
    assert (stored["family"], stored["n_blocks"], stored["sample_rate"]) == ("ConformerCTC", 3, 16000)
    assert stored["features"] == {"kind": "log-mel", "subsampling": 4}
    assert [(row["depth"], row["subset"]) for row in stored["parity"]] == [(1, "010"), (2, "011"), (3, "111")]
    assert all(0 <= row["largest_difference"] < 1e-3 for row in stored["parity"])
    manifest = Manifest.load(exported)
    for subset in every_subset(3):
        counted, ours = subset_cost(network, subset), manifest.costs.of(subset)
        assert ours.parameters == counted.parameters
        assert ours.macs_per_second == pytest.approx(counted.macs_per_second)


def test_the_folder_has_ladder_and_tokens_of_the_torch_model(exported: Path, laddered: Path) -> None:
    assert {file.name for file in exported.iterdir()} >= {"model.onnx", "manifest.json", "tokens.txt", "ladder.json"}
    assert Ladder.load(exported / "ladder.json") == Ladder.load(laddered / "ladder.json")
    words = [line.split()[0] for line in (exported / "tokens.txt").read_text().splitlines()]
    assert words == ["<blk>", "▁high", "▁low", "▁middle"]


@pytest.mark.medium
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_large_weights_lie_beside_the_graph_and_nothing_else_changes(
    traced: Traced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    model = precise(traced.model, precision)
    manifest = replace(traced.manifest, precision=precision)
    inside = write_folder(tmp_path / "inside", traced, model.clone(), manifest)
    monkeypatch.setattr(export_folder, "EXTERNAL_FROM_MB", 0)
    beside = write_folder(tmp_path / "beside", traced, model.clone(), manifest)
    assert (tmp_path / "beside" / "model.weights").is_file() and not (tmp_path / "inside" / "model.weights").exists()
    graph = tmp_path / "beside" / "model.onnx"
    assert graph.stat().st_size < (tmp_path / "inside" / "model.onnx").stat().st_size
    assert inside.model_id == beside.model_id
    inputs, lengths_B = noise([70, 20])
    for subset in every_subset(3):
        a, b = (
            Session(tmp_path / name, Manifest.load(tmp_path / name), 1).posteriors(
                inputs.numpy(), lengths_B.numpy(), subset
            )[0]
            for name in ("inside", "beside")
        )
        np.testing.assert_array_equal(a, b)


# --------------------------------------------------------------------------------------------------- float16, int8


def weight_bytes(model: ir.Model) -> int:
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def texts(recognizer: Recognizer | TorchRecognizer, cuts: Path, subset: BlockSubset) -> tuple[str, ...]:
    return evaluate(recognizer, FeatureBatches(cuts, recognizer.features, workers=0), subset).hypotheses


def test_float16_halves_the_weights_and_keeps_the_texts(
    traced: Traced, session: Session, recognizer: TorchRecognizer, corpus: Any, tmp_path: Path
) -> None:
    half = to_float16(traced.model)
    assert weight_bytes(half) < 0.6 * weight_bytes(traced.model)
    write_folder(tmp_path / "half", traced, half, replace(traced.manifest, precision="float16"))
    ours = Recognizer(tmp_path / "half", threads=1)
    inputs, lengths_B = noise([90, 41])
    for subset in every_subset(3):
        a, b = (one.posteriors(inputs.numpy(), lengths_B.numpy(), subset)[0][0] for one in (ours.session, session))
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


def test_quantising_ends_when_no_depth_is_worse(traced: Traced, corpus: Any) -> None:
    said: list[str] = []
    found = quantise(traced, FeatureBatches(corpus.dev, traced.network.features, workers=0), said.append)
    assert found.holds and found.float_blocks == ()  # a network that is right everywhere by a wide margin
    assert [row["depth"] for row in found.rows] == [1, 2, 3]
    assert all(row["words"] == found.rows[0]["words"] > 10 for row in found.rows)
    assert len(said) == len(found.float_blocks) + 1 and all(line.startswith("int8, ") for line in said)


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


@pytest.mark.medium
def test_a_block_that_int8_ruins_ends_in_float(traced: Traced, corpus: Any, tmp_path: Path) -> None:
    ruined = with_outliers(traced, block=1)
    manifest = write_folder(tmp_path / "float", ruined, ruined.model.clone(), ruined.manifest)
    assert max(row.largest_difference for row in manifest.parity) < 1e-3  # the graph was changed as the network was
    batches = FeatureBatches(corpus.dev, ruined.network.features, workers=0)
    found = quantise(ruined, batches, note=lambda text: None)
    assert found.holds and found.float_blocks == (1,)
    assert not found.rows[0]["int8_errors"]  # the block runs alone at depth 1


def test_an_int8_export_writes_down_how_it_was_checked(
    traced: Traced, laddered: Path, corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerdial.export.export.trace", lambda *arguments: traced)  # traced before; spares ten seconds
    export_model(laddered, tmp_path / "int8", "int8", corpus.dev)
    manifest = Manifest.load(tmp_path / "int8")
    assert (manifest.precision, manifest.wer["cuts"]) == ("int8", str(corpus.dev))
    for row in manifest.wer["rows"]:
        assert set(row) == {"depth", "subset", "float_errors", "int8_errors", "words", "change", "low", "high"}
    float_errors, int8_errors = (
        sum(row[name] for row in manifest.wer["rows"]) for name in ("float_errors", "int8_errors")
    )
    assert manifest.wer["holds"] == (int8_errors <= 1.02 * float_errors)


def int8_found(*rows: tuple[int, int, float, float]) -> Int8:
    """What was found at each depth: float errors, int8 errors, the change, and the lower end of its interval."""
    names = ("float_errors", "int8_errors", "change", "low")
    return Int8(None, (), tuple(dict(zip(names, row, strict=True)) for row in rows))  # type: ignore[arg-type]


def test_one_error_more_at_one_depth_is_no_reason_against_int8() -> None:
    assert int8_found((273, 274, 0.004, -0.01), (26, 27, 0.04, 0.0)).holds


def test_a_depth_that_is_worse_beyond_chance_is() -> None:
    assert not int8_found((1000, 1000, 0.0, -0.01), (100, 112, 0.12, 0.05)).holds


def test_all_depths_a_little_worse_are() -> None:
    assert not int8_found(*[(100, 104, 0.04, -0.01)] * 8).holds


def test_a_graph_that_is_not_the_network_is_our_fault(traced: Traced, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"differs from torch by .* at depth"):
        write_folder(tmp_path / "edge", traced, to_int8(traced.model), traced.manifest)  # said to be float32
    assert not (tmp_path / "edge").exists()


def test_other_weights_or_another_precision_have_another_id(traced: Traced, exported: Path, tmp_path: Path) -> None:
    def written(name: str, traced: Traced, model: ir.Model, precision: str = "float32") -> str:
        return write_folder(tmp_path / name, traced, model, replace(traced.manifest, precision=precision)).model_id

    same = written("same", traced, traced.model.clone())
    assert same == Manifest.load(exported).model_id
    other = with_outliers(traced, 0)
    ids = {
        same,
        written("other", other, other.model),
        written("int8", traced, to_int8(traced.model), "int8"),
        written("half", traced, to_float16(traced.model), "float16"),
    }
    assert len(ids) == 4


# -------------------------------------------------------------------------------------------------- where it goes


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("sherpa", [False, True])
def test_a_folder_with_something_else_is_left_alone(laddered: Path, tmp_path: Path, sherpa: bool) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="thesis holds something that is no export"):
        export_sherpa(laddered, tmp_path / "thesis", 2) if sherpa else export_model(laddered, tmp_path / "thesis")
    assert files(tmp_path / "thesis") == {"thesis.tex": b"years of work"}
    with pytest.raises(UserError, match=r"thesis\.tex is a file; name a folder"):
        export_model(laddered, tmp_path / "thesis" / "thesis.tex")


def test_the_manifest_of_another_program_does_not_make_a_folder_an_export(laddered: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "manifest.json").write_text('{"name": "a web app", "start_url": "/"}')
    (tmp_path / "site" / "index.html").write_text("<html>")
    before = files(tmp_path / "site")
    with pytest.raises(UserError, match="site holds something that is no export"):
        export_model(laddered, tmp_path / "site")
    assert files(tmp_path / "site") == before


def test_a_model_is_not_exported_over_itself(laddered: Path, tmp_path: Path) -> None:
    shutil.copytree(laddered, tmp_path / "model")
    before = files(tmp_path / "model")
    with pytest.raises(UserError, match="no export"):
        export_model(tmp_path / "model", tmp_path / "model")
    assert files(tmp_path / "model") == before


def test_an_exported_folder_is_not_exported_again(exported: Path, tmp_path: Path) -> None:
    for out in (tmp_path / "again", exported):
        with pytest.raises(UserError, match="is exported already; export the torch model"):
            export_model(exported, out)
    assert not (tmp_path / "again").exists()


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        trace(tmp_path)


def test_a_new_export_replaces_the_old_one_as_a_whole(traced: Traced, exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "edge")
    (tmp_path / "edge" / "profile.json").write_text("{}")
    write_folder(tmp_path / "edge", traced, to_int8(traced.model), replace(traced.manifest, precision="int8"))
    assert Manifest.load(tmp_path / "edge").precision == "int8"
    assert set(files(tmp_path / "edge")) == {"model.onnx", "manifest.json", "tokens.txt", "ladder.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["edge"]


@pytest.mark.parametrize("step", ["save_graph", "compare"])
def test_a_failure_on_the_way_leaves_the_old_export(
    traced: Traced, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    shutil.copytree(exported, tmp_path / "edge")
    before = files(tmp_path / "edge")

    def fail(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(export_folder, step, fail)
    with pytest.raises(ZeroDivisionError):
        write_folder(tmp_path / "edge", traced, traced.model.clone(), traced.manifest)
    assert files(tmp_path / "edge") == before
    assert [path.name for path in tmp_path.iterdir()] == ["edge"]


def test_a_kill_on_the_way_leaves_the_old_export_and_the_next_one_succeeds(
    traced: Traced, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(exported, tmp_path / "edge")
    before = files(tmp_path / "edge")

    def export() -> None:
        monkeypatch.setattr(export_folder, "compare", lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
        write_folder(tmp_path / "edge", traced, traced.model.clone(), traced.manifest)

    ended: Ended = in_child(export)
    assert ended.code == -signal.SIGKILL
    assert files(tmp_path / "edge") == before
    write_folder(tmp_path / "edge", traced, traced.model.clone(), traced.manifest)
    Recognizer(tmp_path / "edge", threads=1)
