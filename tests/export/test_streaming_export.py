"""One ONNX file of a streaming Conformer: every chunk size, every depth, every batch of streams, as torch has it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from layerdial.errors import UserError
from layerdial.export.export import export_model
from layerdial.export.graph import branches_of
from layerdial.export.precision import products_of, to_int8
from layerdial.export.streaming import Streaming
from layerdial.export.web_folder import write_web_folder
from layerdial.export.writer import Traced, write_folder
from layerdial.models.checkpoint import load_network
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.runtime.streaming_session import STREAMING_INPUTS, StreamingSession
from layerdial.subset import BlockSubset, ChunkSchedule
from tiny import command, noise, tiny_network
from tiny_graphs import CLOSE, all_graphs, every_subset, precise
from tiny_streaming_export import N_BLOCKS, load_session, network, random_schedule, save_streaming

pytest_plugins = ["tiny_streaming_export"]

Folders = Callable[[str], tuple[Path, Path]]
FULL, FIRST = BlockSubset.full(N_BLOCKS), BlockSubset.prefix(N_BLOCKS, 1)


@pytest.fixture(scope="module")
def torchs(streaming_folders: Folders) -> ConformerCTC:
    made, _ = load_network(streaming_folders("plain")[0])
    assert isinstance(made, ConformerCTC)
    return made


def assert_as_masked(
    session: StreamingSession, net: ConformerCTC, lengths: list[int], schedule: ChunkSchedule, seed: int = 0
) -> None:
    """Chunk by chunk in ONNX Runtime is torch over whole utterances, masked."""
    x_BTF, lengths_B = noise(lengths, seed)
    ours_BTV, frames_B = session.in_chunks(x_BTF.numpy(), lengths_B.numpy(), schedule)
    with torch.inference_mode():
        theirs = net(x_BTF, lengths_B, schedule)
    assert frames_B.tolist() == theirs.lengths_B.tolist() == [(length + 3) // 4 for length in lengths]
    for ours_TV, theirs_TV, frames in zip(ours_BTV, theirs.log_probs_BTV.numpy(), frames_B, strict=True):
        np.testing.assert_allclose(ours_TV[:frames], theirs_TV[:frames], atol=CLOSE, rtol=0)


@pytest.mark.parametrize(
    ("trials", "variant"),
    [
        pytest.param(30, "plain", marks=pytest.mark.medium),
        pytest.param(500, "plain", marks=pytest.mark.slow),
        pytest.param(500, "self_condition", marks=pytest.mark.slow),
    ],
)
def test_chunk_by_chunk_equals_torch_masked_for_random_schedules(
    streaming_folders: Folders, trials: int, variant: str
) -> None:
    model, edge = streaming_folders(variant)
    net, _ = load_network(model)
    session, rng = load_session(edge), random.Random(0)
    assert isinstance(net, ConformerCTC)
    for trial in range(trials):
        lengths = [rng.randint(1, 120) for _ in range(rng.randint(1, 3))]
        assert_as_masked(session, net, lengths, random_schedule(rng, -(-max(lengths) // 4)), trial)


@pytest.mark.parametrize("chunk_ms", [40, 80, 160, 320, 640, 1280])
def test_one_file_has_every_size_of_chunks_and_every_depth(
    streaming_session: StreamingSession, torchs: ConformerCTC, chunk_ms: int
) -> None:
    for subset in every_subset(N_BLOCKS):
        assert_as_masked(streaming_session, torchs, [301, 128], ChunkSchedule((chunk_ms // 40,), (subset,)))


def test_blocks_that_come_back_find_what_they_missed(streaming_session: StreamingSession, torchs: ConformerCTC) -> None:
    up_and_down = [FULL, FIRST, FIRST, FULL, BlockSubset(N_BLOCKS, (1, 2)), FULL]
    assert_as_masked(streaming_session, torchs, [400, 90], ChunkSchedule((4, 2), tuple(up_and_down)))


def test_an_utterance_in_one_chunk_is_the_network_without_chunks(
    streaming_session: StreamingSession, torchs: ConformerCTC
) -> None:
    x_BTF, lengths_B = noise([333, 60])
    ours_BTV, _ = streaming_session.posteriors(x_BTF.numpy(), lengths_B.numpy(), FIRST)
    with torch.inference_mode():
        theirs_BTV = torchs(x_BTF, lengths_B, FIRST).log_probs_BTV.numpy()
    np.testing.assert_allclose(ours_BTV[0], theirs_BTV[0], atol=CLOSE)
    np.testing.assert_allclose(ours_BTV[1, :15], theirs_BTV[1, :15], atol=CLOSE)


@pytest.mark.slow  # traces another model
def test_a_network_of_one_block_is_exported_too(tmp_path: Path) -> None:
    net = tiny_network(n_blocks=1, normalise="fixed", streaming={"chunk_ms": [80], "left_context_ms": 80})
    manifest = export_model(save_streaming(tmp_path / "model", net), tmp_path / "edge", streaming=Streaming())
    assert manifest.streaming is not None and manifest.streaming.file_chunk_ms == 80
    assert_as_masked(load_session(tmp_path / "edge"), net, [70, 20], ChunkSchedule((2,), (BlockSubset.full(1),)))


# --------------------------------------------------------------------------------- what does not run, and is not stored


def nodes_that_ran(edge: Path, subsets: list[BlockSubset], folder: Path) -> list[set[str]]:
    """The names of the nodes that ran in each of several chunks in a row, as written, without optimisation."""
    ran = []
    own = load_session(edge)
    kept = own.begin()
    for i, subset in enumerate(subsets):
        options = onnxruntime.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, str(folder / f"profile{i}")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(str(edge / "model.onnx"), options, providers=["CPUExecutionProvider"])
        gates_N = np.array([block in subset for block in range(N_BLOCKS)])
        x_BTF, lengths_B = noise([16], seed=i)[0].numpy(), np.array([16])
        session.run(None, dict(zip(STREAMING_INPUTS, (x_BTF, lengths_B, gates_N, *kept.arrays()), strict=True)))
        _, kept = own.step(x_BTF, lengths_B, subset, kept)
        events = json.loads(Path(session.end_profiling()).read_text())
        ran.append({event["name"].removesuffix("_kernel_time") for event in events if event.get("cat") == "Node"})
    return ran


def then_nodes(node: onnx.NodeProto) -> set[str]:
    branch = next(attribute.g for attribute in node.attribute if attribute.name == "then_branch")
    return {inner.name for inner in branch.node if inner.op_type != "Constant"}


@pytest.fixture(scope="module")
def ifs(streaming_edge: Path) -> tuple[onnx.NodeProto, list[onnx.NodeProto], list[onnx.NodeProto]]:
    """The choice whether any past is projected, and in it and behind it the choices of each block."""
    found = [node for node in onnx.load(streaming_edge / "model.onnx").graph.node if node.op_type == "If"]
    branch = next(attribute.g for attribute in found[0].attribute if attribute.name == "then_branch")
    return found[0], [node for node in branch.node if node.op_type == "If"], found[1:]


def test_the_kernels_of_exactly_the_kept_blocks_run_and_a_past_is_projected_once(
    streaming_edge: Path, tmp_path: Path, ifs: Any
) -> None:
    late, each_late, blocks = ifs
    chunks = [FULL, FULL, BlockSubset(N_BLOCKS, (0, 2)), BlockSubset(N_BLOCKS, (0,)), FULL, FULL]
    behind = [(), (), (), (), (1, 2), ()]
    assert len(each_late) == len(blocks) == N_BLOCKS
    for ran, subset, projected in zip(nodes_that_ran(streaming_edge, chunks, tmp_path), chunks, behind, strict=True):
        assert bool(then_nodes(late) & ran) == bool(projected)
        for i in range(N_BLOCKS):
            own, past = then_nodes(blocks[i]), then_nodes(each_late[i])
            assert len(own) > 20 and own <= ran if i in subset else not own & ran
            assert len(past) > 3 and past <= ran if i in projected else not past & ran


def test_the_past_of_a_block_is_taken_in_its_branch_alone(streaming_edge: Path) -> None:
    """So nothing of a skipped block is copied; what has caught up is empty where no block missed anything."""
    graph = onnx.load(streaming_edge / "model.onnx").graph
    assert not [node.name for node in graph.node if {"keys", "gated"} & set(node.input)]
    session = onnxruntime.InferenceSession(str(streaming_edge / "model.onnx"), providers=["CPUExecutionProvider"])
    inputs = (
        noise([16])[0].numpy(),
        np.array([16]),
        np.ones(N_BLOCKS, bool),
        *load_session(streaming_edge).begin().arrays(),
    )
    found = session.run(["caught_keys", "caught_gated"], dict(zip(STREAMING_INPUTS, inputs, strict=True)))
    assert [part.size for part in found] == [0, 0]


@pytest.mark.slow
def test_no_weight_is_stored_twice(streaming_edge: Path, torchs: ConformerCTC) -> None:
    needed = sum(value.numel() for value in torchs.state_dict().values() if value.ndim > 1)
    assert sum(matrices_in(ir.load(streaming_edge / "model.onnx"))) == needed


def test_the_file_is_good_onnx_with_a_name_for_each_node(streaming_edge: Path) -> None:
    onnx.checker.check_model(onnx.load(streaming_edge / "model.onnx"), full_check=True)
    nodes = [node for graph in all_graphs(onnx.load(streaming_edge / "model.onnx").graph) for node in graph.node]
    names = [node.name for node in nodes]
    assert len(set(names)) == len(names)


def test_inputs_and_outputs_are_what_other_programs_rely_on(streaming_edge: Path) -> None:
    session = onnxruntime.InferenceSession(str(streaming_edge / "model.onnx"), providers=["CPUExecutionProvider"])
    caches = {
        "seen": ("tensor(int64)", ["streams"]),
        "input": ("tensor(float)", ["streams", 1, 80]),
        "middle": ("tensor(float)", ["streams", 1, 16]),
        "keys": ("tensor(float)", [3, "streams", 10, 32]),
        "gated": ("tensor(float)", [3, "streams", 4, 16]),
        "raw": ("tensor(bool)", [3, "streams", 10]),
    }
    assert {value.name: (value.type, value.shape) for value in session.get_inputs()} == {
        "x": ("tensor(float)", ["streams", "time", 80]),
        "x_lens": ("tensor(int64)", ["streams"]),
        "gates": ("tensor(bool)", [3]),
        **caches,
    }
    assert {value.name: (value.type, value.shape) for value in session.get_outputs()} == {
        "log_probs": ("tensor(float)", ["streams", "frames", 7]),
        "log_probs_lens": ("tensor(int64)", ["streams"]),
        "next_input": caches["input"],
        "next_middle": caches["middle"],
        "entering": ("tensor(float)", ["streams", "frames", 16]),
        "added": ("tensor(float)", ["running", "streams", "frames", 32 + 16 + 16]),
        "caught_keys": ("tensor(float)", [None] * 4),
        "caught_gated": ("tensor(float)", [None] * 4),
    }


# ------------------------------------------------------------------------------------------------------ what is refused


def test_a_model_of_whole_utterances_is_not_exported_for_streams(tmp_path: Path) -> None:
    model = save_streaming(tmp_path / "model", tiny_network())
    with pytest.raises(
        UserError, match=r"model takes whole utterances; for streaming, train a Conformer with model.str"
    ):
        export_model(model, tmp_path / "edge", streaming=Streaming())
    assert not (tmp_path / "edge").exists()


def test_the_page_refuses_a_streaming_export(streaming_edge: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"takes chunks, the page whole utterances; export .* without"):
        write_web_folder(tmp_path / "web", streaming_edge, {})


@pytest.mark.parametrize("chunk_ms", [0, -40, 20, 90, 64_000])
def test_odd_chunks_are_refused(chunk_ms: int) -> None:
    with pytest.raises(UserError, match=f"--chunk-ms is {chunk_ms}; give a multiple of 40, such as 640"):
        Streaming(chunk_ms)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--chunk-ms", "320"], "--chunk-ms is for --streaming; other exports take whole utterances"),
        (["--streaming", "--format", "web"], "recognises whole utterances; leave out --streaming"),
        (["--streaming", "--chunk-ms", "90"], "--chunk-ms is 90; give a multiple of 40"),
    ],
)
def test_options_that_do_not_go_together_are_said(tmp_path: Path, options: list[str], message: str) -> None:
    ended = command("export", save_streaming(tmp_path / "model", network()), tmp_path / "edge", *options)
    assert ended.code == 2 and message in ended.err
    assert not (tmp_path / "edge").exists()


# ------------------------------------------------------------------------------------------------------ smaller weights


def written(folder: Path, traced: Traced, precision: str) -> Path:
    made = replace(traced.manifest, precision=precision)
    write_folder(folder, traced, precise(traced.model, precision), made)
    return folder


def matrices_in(model: ir.Model) -> list[int]:
    """The sizes of the weights that have two axes and more; indices are none."""
    stored = [value.const_value for value in model.graph.initializers.values()]
    kept = (tensor for tensor in stored if tensor is not None and tensor.dtype != ir.DataType.INT64)
    return [tensor.size for tensor in kept if len(tensor.shape) > 1]


def test_int8_is_in_every_branch_and_a_weight_that_two_of_them_use_is_stored_once(streaming_traced: Traced) -> None:
    model = to_int8(streaming_traced.model)
    for block in range(N_BLOCKS):
        own, past = branches_of(model.graph, block)
        assert [node.op_type for node in own if "MatMul" in node.op_type] == 8 * ["MatMulInteger"]
        assert [node.op_type for node in past if "MatMul" in node.op_type] == 2 * ["MatMulInteger"]
    assert len(products_of(model, 0)) == 0
    ours, theirs = (sum(matrices_in(graph)) for graph in (model, streaming_traced.model))
    assert ours == theirs


def test_blocks_that_stay_in_float_do_so_where_they_catch_up_too(streaming_traced: Traced) -> None:
    model = to_int8(streaming_traced.model, [1])
    assert [len(products_of(model, block)) for block in range(N_BLOCKS)] == [0, 8 + 2, 0]


@pytest.mark.parametrize(("precision", "close"), [("float16", 0.02), ("int8", 0.5)])
def test_smaller_weights_say_nearly_the_same_in_chunks_of_changing_depth(
    streaming_traced: Traced, streaming_session: StreamingSession, tmp_path: Path, precision: str, close: float
) -> None:
    session = load_session(written(tmp_path / "edge", streaming_traced, precision))
    schedule = ChunkSchedule((4, 2), (FULL, FIRST, FULL))
    x_BTF, lengths_B = noise([200, 120])
    ours, theirs = (
        np.exp(model.in_chunks(x_BTF.numpy(), lengths_B.numpy(), schedule)[0]) for model in (session, streaming_session)
    )
    assert np.abs(ours - theirs)[0].mean() < close * np.abs(theirs).mean()


@pytest.mark.medium
def test_int8_is_checked_in_chunks_at_every_depth(
    streaming_traced: Traced, corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerdial.export.export.trace", lambda *_: streaming_traced)
    monkeypatch.setattr("layerdial.export.quality.TOLERANCE", 10.0)  # random weights are never sure of a letter
    manifest = export_model(
        tmp_path / "model", tmp_path / "edge", "int8", corpus.dev, streaming=Streaming(), accept=True
    )
    assert manifest.wer["chunk_ms"] == 640 and [row["depth"] for row in manifest.wer["rows"]] == [1, 2, 3]
    assert manifest.streaming is not None and manifest.streaming.file_chunk_ms == "full"
    load_session(tmp_path / "edge")
