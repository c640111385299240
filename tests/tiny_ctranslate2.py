"""A tiny random Whisper, and the same weights in CTranslate2's format, written from its description with numpy."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import WhisperConfig, WhisperForConditionalGeneration

SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>"]
SPECIAL += ["<|startoflm|>", "<|startofprev|>", "<|nocaptions|>", "<|notimestamps|>"]
TOKENS = [*"abcdefgh", "Ġ", "ab", "Ġab", *SPECIAL, *(f"<|{0.02 * i:.2f}|>" for i in range(26))]
MERGES = ["a b", "Ġ ab"]
TYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
Weights = dict[str, NDArray[Any]]


def tiny_whisper(n_mels: int = 80, **changes: Any) -> WhisperForConditionalGeneration:
    """Two encoder blocks and one decoder block of width 8, two heads; positions for half a second of audio."""
    torch.manual_seed(0)
    size = {
        "d_model": 8,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_ffn_dim": 12,
        "decoder_ffn_dim": 16,
        "max_source_positions": 25,
        "max_target_positions": 20,
    }
    config = WhisperConfig(
        vocab_size=len(TOKENS),
        num_mel_bins=n_mels,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        **(size | changes),
        pad_token_id=TOKENS.index("<|endoftext|>"),
        bos_token_id=TOKENS.index("<|endoftext|>"),
        eos_token_id=TOKENS.index("<|endoftext|>"),
        decoder_start_token_id=TOKENS.index("<|startoftranscript|>"),
    )
    model = WhisperForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def ctranslate2_weights(model: WhisperForConditionalGeneration) -> Weights:
    """The model's weights by CTranslate2's names: projections that read the same input are stacked."""
    found = {name.removeprefix("model."): x.detach().numpy() for name, x in model.state_dict().items()}
    weights: Weights = {"decoder/embeddings/weight": found["decoder.embed_tokens.weight"]}
    for part, blocks in (("encoder", model.config.encoder_layers), ("decoder", model.config.decoder_layers)):
        weights[f"{part}/num_heads"] = np.array(2, np.int16)
        weights[f"{part}/position_encodings/encodings"] = found[f"{part}.embed_positions.weight"]
        weights |= _norm(f"{part}/layer_norm", f"{part}.layer_norm", found)
        for i in range(blocks):
            new, old = f"{part}/layer_{i}", f"{part}.layers.{i}"
            weights |= _attention(f"{new}/self_attention", f"{old}.self_attn", found, ("qkv", "out"))
            weights |= _norm(f"{new}/self_attention/layer_norm", f"{old}.self_attn_layer_norm", found)
            if part == "decoder":
                weights |= _attention(f"{new}/attention", f"{old}.encoder_attn", found, ("q", "kv", "out"))
                weights |= _norm(f"{new}/attention/layer_norm", f"{old}.encoder_attn_layer_norm", found)
            weights |= _norm(f"{new}/ffn/layer_norm", f"{old}.final_layer_norm", found)
            for n in (0, 1):
                for kind in ("weight", "bias"):
                    weights[f"{new}/ffn/linear_{n}/{kind}"] = found[f"{old}.fc{n + 1}.{kind}"]
    for name in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"):
        weights["encoder/" + name.replace(".", "/")] = found["encoder." + name]
    return weights | {"decoder/activation": np.array(3, np.int8), "decoder/pre_norm": np.array(1, np.int8)}


def _norm(new: str, old: str, found: Mapping[str, NDArray[Any]]) -> Weights:
    return {f"{new}/gamma": found[f"{old}.weight"], f"{new}/beta": found[f"{old}.bias"]}


def _attention(new: str, old: str, found: Mapping[str, NDArray[Any]], stacks: tuple[str, ...]) -> Weights:
    made: Weights = {}
    for n, letters in enumerate(stacks):
        names = ["out_proj"] if letters == "out" else [f"{letter}_proj" for letter in letters]
        width = len(found[f"{old}.out_proj.bias"])
        made[f"{new}/linear_{n}/weight"] = np.concatenate([found[f"{old}.{name}.weight"] for name in names])
        biases = [found.get(f"{old}.{name}.bias", np.zeros(width, np.float32)) for name in names]  # keys have none
        made[f"{new}/linear_{n}/bias"] = np.concatenate(biases)
    return made


def file_bytes(weights: Weights, spec: str = "WhisperSpec", version: int = 6) -> bytes:
    """`model.bin`: header, variables, aliases."""
    made = struct.pack("<I", version) + _text(spec) + struct.pack("<II", 3, len(weights))
    for name, array in sorted(weights.items()):
        made += _text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        made += struct.pack("<BI", TYPES[array.dtype.name], array.nbytes) + array.tobytes()
    return made + struct.pack("<I", 1) + _text("decoder/projection/weight") + _text("decoder/embeddings/weight")


def _text(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def write_ctranslate2(folder: Path, weights: Weights, **settings: Any) -> Path:
    """A model folder as faster-whisper takes it."""
    folder.mkdir()
    (folder / "model.bin").write_bytes(file_bytes(weights, **settings))
    notes = {"suppress_ids": [1, 2], "suppress_ids_begin": [8, 11], "alignment_heads": [[0, 1]], "lang_ids": [13, 14]}
    (folder / "config.json").write_text(json.dumps(notes))
    (folder / "vocabulary.txt").write_text("\n".join(TOKENS) + "\n", encoding="utf-8")
    vocabulary = {token: i for i, token in enumerate(TOKENS[: TOKENS.index("<|endoftext|>")])}
    tokenizer = {"version": "1.0", "model": {"type": "BPE", "vocab": vocabulary, "merges": MERGES}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return folder
