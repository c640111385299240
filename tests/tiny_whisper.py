"""A tiny random Whisper as a Hugging Face folder: 4 encoder blocks, 2 decoder blocks, texts of the letters a to h."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from layerdial.data.manifest import write_cuts
from layerdial.export.writer import Traced
from layerdial.models.checkpoint import load_network, save_model
from layerdial.models.huggingface.checkpoint import with_ctc_head
from layerdial.models.huggingface.ctranslate2 import convert_ctranslate2
from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.recognizer import FeatureBatch, collate_features
from layerdial.runtime import Recognizer
from layerdial.runtime.manifest import DECODER, ENCODER, Manifest
from layerdial.subset import BlockSubset
from layerdial.text.byte_level import ByteTable
from layerdial.text.tokenizer import build_tokenizer, read_tokens
from tiny import command, sentences, speak, write_cut
from tiny_ctranslate2 import ctranslate2_weights, tiny_whisper, write_ctranslate2

N_BLOCKS = 4
FULL = BlockSubset.full(N_BLOCKS)
EVERY_SUBSET = [BlockSubset(N_BLOCKS, kept) for depth in (1, 2, 3, 4) for kept in combinations(range(N_BLOCKS), depth)]
LENGTHS = (16000, 9123, 47000)  # samples of the utterances of a batch
_SIZE = {"encoder_layers": N_BLOCKS, "decoder_layers": 2, "d_model": 16, "max_target_positions": 48}


def save_whisper(folder: Path, n_mels: int = 80, **changes: Any) -> Path:
    """Write the checkpoint; positions for three seconds of audio unless `changes` to its config say otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    model = tiny_whisper(n_mels, **(_SIZE | {"max_source_positions": 150} | changes))
    source = write_ctranslate2(folder.with_name(f"{folder.name}-ct2"), ctranslate2_weights(model))
    convert_ctranslate2(source, folder)
    return folder


def save_like_base(folder: Path) -> Path:
    """Write a checkpoint with as many blocks, positions and languages as Whisper base has, or nearly."""
    size = {"max_source_positions": 1500, "max_target_positions": 448}
    save_whisper(folder, encoder_layers=6, decoder_layers=6, **size)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"is_multilingual": True}))
    return folder


def save_encoder(folder: Path, **changes: Any) -> Path:
    """Write the encoder of such a checkpoint alone, without tokenizer, as encoders are handed out."""
    whole = save_whisper(folder.with_name(f"{folder.name}-whole"), **changes)
    weights = load_file(whole / "model.safetensors")
    folder.mkdir()
    kept = {name: x for name, x in weights.items() if name.startswith("model.encoder")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(whole / name, folder)
    return folder


def save_whisper_ctc(folder: Path, **changes: Any) -> Path:
    """Write a tiny Whisper's encoder under a random CTC head for the characters of the spoken texts."""
    encoder = save_encoder(folder.with_name(f"{folder.name}-encoder"), **changes)
    torch.manual_seed(0)
    network, tokenizer = with_ctc_head(encoder, build_tokenizer("char", _WORDS.values()))
    torch.nn.init.normal_(network.head.weight)  # texts of many letters
    save_model(folder, network, tokenizer, {})
    return folder


def save_student(folder: Path) -> None:
    """Write a `model` that takes audio of any length, up to 30 s, and its export `edge`, made by the command."""
    model = save_whisper(folder / "model", max_source_positions=1500)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"takes_any_length": True}))
    ended = command("export", model, folder / "edge", "--licence", "MIT")
    assert ended.code == 0, ended.err
    (folder / "said.txt").write_text(ended.out)


def traced_student(folder: Path) -> Traced:
    """Return what the export of such a folder worked on, which takes no time."""
    network, _ = load_network(folder / "model")
    manifest = Manifest.load(folder / "edge")
    assert manifest.decoder is not None
    pieces = ByteTable(read_tokens(folder / "edge" / "tokens.txt", blank=False), manifest.decoder.end)
    reader, writer = (ir.load(folder / "edge" / name) for name in (ENCODER, DECODER))
    return Traced(network, pieces, None, manifest, reader, writer)


_WORDS = {"low": "ab", "middle": "abd", "high": "abgh"}  # which the tiny vocabulary can write, and decoding allows


def write_spoken(path: Path, count: int, longest: str = "") -> Path:
    """Write a manifest of utterances of two words; `longest` is the text of a last one."""
    texts = sentences(count, words=(2, 2))
    own = [" ".join(_WORDS[word] for word in text.split()) for text in texts] + ([longest] if longest else [])
    spoken = [*texts, *(["low"] if longest else [])]
    cuts = [write_cut(path.parent / "audio", f"cut-{i}", speak(said, i), own[i]) for i, said in enumerate(spoken)]
    write_cuts(iter(cuts), path)
    return path


def samples(length: int) -> NDArray[np.float32]:
    return np.random.default_rng(length).normal(0.0, 0.1, length).astype(np.float32)


@dataclass(frozen=True)
class Pair:
    """A model in torch and as exported: without special cases, as students are."""

    torch: TorchRecognizer
    onnx: Recognizer

    @property
    def network(self) -> Any:
        return self.torch.network

    @property
    def session(self) -> Any:
        return self.onnx.session

    def batch(self, *lengths: int) -> FeatureBatch:
        rows = [self.onnx.features(samples(n)) for n in lengths]
        return collate_features([str(n) for n in lengths], rows, [""] * len(lengths), 1.0)
