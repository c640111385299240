"""The exported folder: what is in it, that it is torch's, and that nothing else is lost where it goes."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from layerdial import __version__
from layerdial.errors import UserError
from layerdial.export import writer as export_folder
from layerdial.export.export import export_model, export_sherpa
from layerdial.export.precision import to_float16, to_int8
from layerdial.export.writer import Traced, trace, write_folder
from layerdial.ladder import Ladder
from layerdial.models.checkpoint import fingerprint
from layerdial.models.cost import subset_cost
from layerdial.runtime import Recognizer
from layerdial.runtime.manifest import Manifest
from layerdial.runtime.session import Session
from tiny import Ended, in_child, noise
from tiny_graphs import all_graphs, every_subset, files, precise, with_outliers

pytest_plugins = ["tiny_export"]


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


def test_the_manifest_says_what_was_exported_and_how_close_it_is(exported: Path, traced: Traced) -> None:
    stored = json.loads((exported / "manifest.json").read_text())
    assert (stored["kind"], stored["format"], stored["precision"]) == ("layerdial-onnx", 1, "float32")
    assert (stored["family"], stored["n_blocks"], stored["sample_rate"]) == ("ConformerCTC", 3, 16000)
    assert stored["features"] == {"kind": "log-mel", "subsampling": 4}
    assert [(row["depth"], row["subset"]) for row in stored["parity"]] == [(1, "010"), (2, "011"), (3, "111")]
    assert all(0 <= row["largest_difference"] < 1e-3 for row in stored["parity"])
    manifest = Manifest.load(exported)
    for subset in every_subset(3):
        counted, ours = subset_cost(traced.network, subset), manifest.costs.of(subset)
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


# -------------------------------------------------------------------------------------------------------- where it goes


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
