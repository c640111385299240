"""Models in which a byte is not as it was written are refused; those of earlier versions, without hashes, load."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from layerdial import load_model
from layerdial.errors import UserError
from layerdial.models import tensors
from layerdial.models.checkpoint import load_network, save_model
from layerdial.models.prune import prune_model
from layerdial.runtime import Recognizer
from layerdial.utils import checksums
from tiny_hf import save_tiny

pytest_plugins = ["tiny_export"]
pytestmark = pytest.mark.medium  # loads models again and again, some in processes of their own


def flip(file: Path, at: int, bit: int = 0) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1 << bit
    file.write_bytes(data)


def damage_some(folder: Path, file: str, load: Callable[[], object], trials: int = 25) -> None:
    """Every one of some single flipped bits of a file is noticed, in one line."""
    whole, rng = (folder / file).read_bytes(), random.Random(file)
    for _ in range(trials):
        flip(folder / file, rng.randrange(len(whole)), rng.randrange(8))
        with pytest.raises(UserError) as found:
            load()
        assert "\n" not in str(found.value) and str(folder) in str(found.value)
        (folder / file).write_bytes(whole)
    load()


@pytest.mark.parametrize("file", ["model.safetensors", "tokens.txt", "config.json"])
def test_one_damaged_bit_of_a_model_is_found(learnt: Path, tmp_path: Path, file: str) -> None:
    shutil.copytree(learnt, tmp_path / "model")
    damage_some(tmp_path / "model", file, lambda: load_model(tmp_path / "model"))


@pytest.mark.parametrize("file", ["model.onnx", "tokens.txt", "manifest.json"])
def test_one_damaged_bit_of_an_export_is_found(exported: Path, tmp_path: Path, file: str) -> None:
    shutil.copytree(exported, tmp_path / "edge")
    damage_some(tmp_path / "edge", file, lambda: Recognizer(tmp_path / "edge", threads=1))


def test_weights_beside_the_graph_are_checked_too(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "edge")
    (tmp_path / "edge" / "model.weights").write_bytes(b"0123")
    manifest = json.loads((tmp_path / "edge" / "manifest.json").read_text())
    del manifest["checksum"]
    manifest["sha256"] |= checksums.checksums([tmp_path / "edge" / "model.weights"])
    (tmp_path / "edge" / "manifest.json").write_text(json.dumps(manifest))
    Recognizer(tmp_path / "edge", threads=1)
    flip(tmp_path / "edge" / "model.weights", 2)
    with pytest.raises(UserError, match=r"model\.weights is damaged"):
        Recognizer(tmp_path / "edge", threads=1)


@pytest.mark.parametrize("made_by", ["save", "prune"])
def test_one_damaged_bit_of_a_hugging_face_model_is_found(tmp_path: Path, made_by: str) -> None:
    network, tokenizer = load_network(save_tiny(tmp_path / "theirs", "wav2vec2-base"))
    save_model(tmp_path / "model", network, tokenizer, {})
    if made_by == "prune":
        prune_model(tmp_path / "model", tmp_path / "small", 2)
    folder = tmp_path / ("model" if made_by == "save" else "small")
    with safe_open(folder / "model.safetensors", framework="pt") as opened:
        assert opened.metadata()["format"] == "pt"  # which plain transformers asks for
    damage_some(folder, "model.safetensors", lambda: load_network(folder), trials=8)
    damage_some(folder, "vocab.json", lambda: load_network(folder), trials=8)


def test_files_without_a_hash_load(learnt: Path, tmp_path: Path) -> None:
    """As earlier versions and other software write them."""
    shutil.copytree(learnt, tmp_path / "model")
    save_file(load_file(learnt / "model.safetensors"), tmp_path / "model" / "model.safetensors")
    (tmp_path / "model" / "meta.json").unlink()
    load_model(tmp_path / "model")


def test_a_file_is_hashed_once_for_each_of_its_states(
    learnt: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(learnt, tmp_path / "model")
    shutil.copytree(exported, tmp_path / "edge")
    hashed: list[object] = []
    of_tensors, of_file = tensors._hash, checksums.hashlib.file_digest
    monkeypatch.setattr(tensors, "_hash", lambda found: (hashed.append("tensors"), of_tensors(found))[1])
    monkeypatch.setattr(
        checksums.hashlib, "file_digest", lambda file, kind: (hashed.append(file.name), of_file(file, kind))[1]
    )
    load_model(tmp_path / "model")
    load_model(tmp_path / "edge", threads=1)
    first = list(hashed)
    assert len(first) == len(set(first)) and "tensors" in first
    for _ in range(2):
        load_model(tmp_path / "model")
        load_model(tmp_path / "edge", threads=1)
    assert hashed == first
