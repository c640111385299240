"""An exported folder with a damaged file is refused by one line that names it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

from layerdial import UserError
from layerdial.ladder import Ladder, Rung
from layerdial.runtime import Recognizer, is_exported
from layerdial.runtime.profile import FILE as PROFILE
from layerdial.runtime.profile import Device
from tiny_runtime import NEVER_MS, SAMPLES, TEXT, change, cut

pytest_plugins = ["tiny_export"]


def foreign_graph(file: Path) -> None:
    """Something else's model: y = relu(x)."""
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("a", "b")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["a"], ["b"])], "other", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, file)


def ladder_of_two(folder: Path) -> None:
    Ladder(2, "wer", "dev", 1, (Rung(1, "10", 0.0, 0.0, 0, 1), Rung(2, "11", 0.0, 0.0, 0, 1))).save(
        folder / "ladder.json"
    )


def profile_with(folder: Path, **values: Any) -> None:
    """A profile of this model and device but for the values of its table."""
    table = {"threads": 1, "seconds": [1, 3], "features_ms": [1, 3], "network_ms": {"1": [1, 2]}, "cpu_share": 1.0}
    model_id = json.loads((folder / "manifest.json").read_text())["model_id"]
    stored = {"format": 1, "model_id": model_id, "device": asdict(Device.here()), "tables": [table | values]}
    (folder / PROFILE).write_text(json.dumps(stored))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "graph cut short": (lambda f: cut(f / "model.onnx"), r"model\.onnx cannot be loaded .*; copy or export it again"),
    "graph nearly whole": (lambda f: cut(f / "model.onnx", 0.99), r"model\.onnx cannot be loaded"),
    "graph empty": (lambda f: cut(f / "model.onnx", 0), r"model\.onnx"),
    "graph is text": (lambda f: (f / "model.onnx").write_text("hello"), r"model\.onnx cannot be loaded"),
    "graph missing": (lambda f: (f / "model.onnx").unlink(), r"model\.onnx does not exist"),
    "graph of something else": (lambda f: foreign_graph(f / "model.onnx"), r"model\.onnx is no graph of layerdial"),
    "manifest missing": (lambda f: (f / "manifest.json").unlink(), r"has no manifest\.json"),
    "manifest no JSON": (lambda f: cut(f / "manifest.json"), r"manifest\.json is not valid JSON"),
    "manifest empty": (lambda f: cut(f / "manifest.json", 0), r"manifest\.json is not valid JSON"),
    "manifest a list": (lambda f: (f / "manifest.json").write_text("[]"), r"manifest\.json is damaged"),
    "manifest of the future": (lambda f: change(f / "manifest.json", format=3), r"manifest\.json .* this layerdial re"),
    "manifest of a streaming export": (
        lambda f: change(f / "manifest.json", format=2),
        r"manifest\.json is damaged .*stream",
    ),
    "manifest of another kind": (lambda f: change(f / "manifest.json", kind="x"), r"manifest\.json has kind .x."),
    "manifest of another export": (
        lambda f: change(f / "manifest.json", model_id="0123456789abcdef"),
        r"model\.onnx has .* manifest\.json .*; they are not from one export",
    ),
    "manifest of more tokens": (lambda f: change(f / "manifest.json", vocab_size=9), "they are not from one export"),
    "manifest at another rate": (lambda f: change(f / "manifest.json", sample_rate=8000), r"manifest\.json is damaged"),
    "manifest of more blocks": (lambda f: change(f / "manifest.json", n_blocks=4), r"manifest\.json is damaged"),
    "manifest of odd features": (
        lambda f: change(f / "manifest.json", features={"kind": "smell"}),
        r"manifest\.json is damaged .*smell",
    ),
    "manifest with an unknown key": (lambda f: change(f / "manifest.json", colour=1), r"manifest\.json is damaged"),
    "manifest of null": (lambda f: change(f / "manifest.json", n_blocks=None), r"manifest\.json is damaged"),
    "manifest of words for numbers": (
        lambda f: change(f / "manifest.json", vocab_size="seven"),
        r"manifest\.json",
    ),
    "tokens missing": (lambda f: (f / "tokens.txt").unlink(), r"tokens\.txt does not exist"),
    "tokens too few": (
        lambda f: (f / "tokens.txt").write_text("<blk> 0\n▁low 1\n"),
        r"tokens\.txt has 2 tokens, the model 4",
    ),
    "tokens no list": (lambda f: (f / "tokens.txt").write_text("low middle high"), r"tokens\.txt is not a list"),
    "tokens empty": (lambda f: (f / "tokens.txt").write_text(""), r"tokens\.txt"),
    "tokens in another code": (lambda f: (f / "tokens.txt").write_bytes(b"\xff\xfe\x00"), r"tokens\.txt is not a list"),
    "ladder of other blocks": (ladder_of_two, r"ladder\.json is for 2 blocks, this model has 3"),
    "ladder no JSON": (lambda f: (f / "ladder.json").write_text("{"), r"ladder\.json is not valid JSON"),
    "profile no JSON": (lambda f: (f / PROFILE).write_text("{"), r"profile\.json is not valid JSON"),
    "profile a list": (lambda f: (f / PROFILE).write_text("[]"), r"profile\.json is damaged .it holds no JSON"),
    "profile without tables": (
        lambda f: (f / PROFILE).write_text('{"format": 1, "model_id": "a"}'),
        r"profile\.json is damaged .*layerdial profile",
    ),
    "profile with a list for depths": (lambda f: profile_with(f, network_ms=[1, 2]), r"profile\.json is damaged"),
    "profile with too few numbers": (lambda f: profile_with(f, network_ms={"1": [1]}), r"profile\.json is damaged"),
    "profile of no depth": (lambda f: profile_with(f, network_ms={}), r"profile\.json is damaged"),
    "profile of no length": (lambda f: profile_with(f, seconds=[], features_ms=[]), r"profile\.json is damaged"),
    "profile of one length twice": (lambda f: profile_with(f, seconds=[1, 1]), r"profile\.json is damaged"),
    "profile with times below zero": (lambda f: profile_with(f, features_ms=[-1, -3]), r"profile\.json is damaged"),
    "profile with NaN": (lambda f: profile_with(f, features_ms=[1, float("nan")]), r"profile\.json is damaged"),
    "profile of no CPU": (lambda f: profile_with(f, cpu_share=0), r"profile\.json is damaged"),
}


KEYS = ("model_id", "n_blocks", "features", "vocab_size", "silent_tokens", "costs", "parity", "precision")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_by_one_line_that_names_the_file(copy: Path, damage: str) -> None:
    spoil, message = DAMAGES[damage]
    spoil(copy)
    with pytest.raises(UserError, match=message) as problem:
        Recognizer(copy, threads=1)
    assert "\n" not in str(problem.value) and str(copy) in str(problem.value)


def test_a_profile_of_the_same_shape_that_is_whole_is_read(copy: Path) -> None:
    profile_with(copy)
    recognizer = Recognizer(copy, threads=1)
    assert recognizer.controller.costs.features(3.0) == 3.0
    assert recognizer.transcribe(SAMPLES, deadline_ms=NEVER_MS).text == TEXT


@pytest.mark.parametrize("key", KEYS)
def test_a_manifest_without_a_key_is_refused(copy: Path, key: str) -> None:
    change(copy / "manifest.json", **{key: ...})
    with pytest.raises(UserError, match=rf"manifest\.json is damaged .*{key}.*; export the model again"):
        Recognizer(copy, threads=1)


def test_a_folder_that_is_no_export_is_refused(laddered: Path, tmp_path: Path) -> None:
    for folder in (laddered, tmp_path, tmp_path / "nowhere"):
        assert not is_exported(folder)
        with pytest.raises(UserError, match=r"is not an exported model: it has no manifest\.json; .*layerdial export"):
            Recognizer(folder)


def test_a_folder_half_copied_is_still_known_as_an_export(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    assert is_exported(copy)


def test_onnx_runtime_prints_nothing_where_a_graph_cannot_be_loaded(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It announced a second attempt, on standard output, where results are expected."""

    def fail(*arguments: object) -> None:
        raise ValueError("'utf-8' codec can't decode byte 0x99")

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", fail)
    with pytest.raises(UserError, match=r"model\.onnx cannot be loaded .*0x99.*; copy or export it again"):
        Recognizer(exported, threads=1)
    assert tuple(capfd.readouterr()) == ("", "")
