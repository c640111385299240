"""A Whisper model of CTranslate2, as faster-whisper takes it, written as a Hugging Face folder.

The weights keep their numbers and their precision on disk; config.json says float32, in which a processor computes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from layerdial.errors import UserError
from layerdial.models.ctranslate2_file import CTranslate2File, read_ctranslate2
from layerdial.models.huggingface.ctc import silence_transformers
from layerdial.models.tensors import save_tensors
from layerdial.utils.files import read_json, replacing, write_json

_SPEC = "WhisperSpec"
_GELU = 3  # in ctranslate2.specs.common_spec.Activation
_SETTINGS = {  # what transformers' Whisper computes
    "decoder/activation": _GELU,
    "decoder/pre_norm": 1,
    "decoder/alibi": 0,
    "decoder/scale_embeddings": 0,
    "decoder/start_from_zero_embedding": 0,
}
_LISTS = ("suppress_ids", "suppress_ids_begin", "alignment_heads")  # in config.json
_MULTILINGUAL_TOKENS = 51865  # OpenAI's rule: English models have one token fewer
_LATEST_FIRST_TIMESTAMP = 50  # of 0.02 s
_LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")
_TIMESTAMP = re.compile(r"<\|\d+\.\d\d\|>")

Vocabulary = dict[str, int]


def convert_ctranslate2(folder: Path, out: Path) -> WhisperConfig:
    """Write the CTranslate2 Whisper model in `folder` as the Hugging Face folder `out`; return its config.

    `folder` holds model.bin, config.json, tokenizer.json and vocabulary.txt or vocabulary.json. Raises `UserError`
    where `out` exists, for another model than Whisper, for weights in int8, and for what is missing or damaged.
    """
    if out.exists():
        raise UserError(f"{out} exists already; choose another folder")
    model = _read_whisper(folder / "model.bin")
    notes, tokens = _read_notes(folder / "config.json"), _read_vocabulary(folder)
    config = _config(model, tokens, notes, folder)
    weights = dict(_weights(model))
    _check_weights(config, weights, folder / "model.bin")
    tokenizer = _tokenizer(folder / "tokenizer.json", tokens)
    with replacing(out) as temporary, silence_transformers():
        config.save_pretrained(temporary)
        _generation_config(config, tokens, notes).save_pretrained(temporary)
        WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        save_tensors(temporary / "model.safetensors", {name: _tensor(array) for name, array in weights.items()})
        write_json(temporary / "meta.json", {"converted_from": str(folder), "format": "CTranslate2"})
    return config


def _read_whisper(file: Path) -> CTranslate2File:
    """Return a Whisper model in float. Raises `UserError` for another model or other numbers."""
    model = read_ctranslate2(file)
    if model.spec != _SPEC:
        raise UserError(f"{file} holds a {model.spec or 'model without a name'}; a Whisper model is a {_SPEC}")
    weights = {name: array for name, array in model.variables.items() if array.ndim}
    kinds = sorted({array.dtype.name for name, array in weights.items() if name != "decoder/alignment_heads"})
    if any(not kind.startswith("float") for kind in kinds):
        raise UserError(
            f"{file} has weights in {', '.join(kinds)}, which have lost precision; "
            "take a model that was converted with --quantization float16 or float32"
        )
    for name, expected in _SETTINGS.items():
        found = model.variables.get(name)
        if found is not None and found.ndim == 0 and int(found) != expected:
            raise UserError(f"{file}: {name} is {int(found)}, in OpenAI's Whisper it is {expected}")
    return model


def _read_notes(file: Path) -> Mapping[str, Any]:
    """Return config.json: the tokens that are never written, and the heads that align words."""
    notes = read_json(file)
    lists = [notes.get(key) or [] for key in _LISTS] if isinstance(notes, dict) else [None]
    if not all(isinstance(found, list) and all(map(_is_number_or_pair, found)) for found in lists):
        raise UserError(f"{file} is not the config.json of a CTranslate2 Whisper model, with lists {', '.join(_LISTS)}")
    return notes  # type: ignore[no-any-return]


def _is_number_or_pair(value: Any) -> bool:
    return type(value) is int or (isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value))


def _read_vocabulary(folder: Path) -> Vocabulary:
    """Return the id of each token, from vocabulary.json (a list) or vocabulary.txt (a line each)."""
    listed, lines = folder / "vocabulary.json", folder / "vocabulary.txt"
    if listed.is_file():
        tokens = read_json(listed)
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise UserError(f"{listed} is not a list of tokens")
    elif lines.is_file():
        try:
            tokens = lines.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{lines} cannot be read: {error}") from None
    else:
        raise UserError(f"{folder} has neither vocabulary.json nor vocabulary.txt; copy the whole model folder")
    return {token: i for i, token in enumerate(tokens)}


def _id_of(tokens: Vocabulary, *names: str) -> int:
    """Return the id of the first of these tokens that there is."""
    for name in names:
        if name in tokens:
            return tokens[name]
    raise UserError(f"the vocabulary has no {names[0]}, which every Whisper model has")


def _config(model: CTranslate2File, tokens: Vocabulary, notes: Mapping[str, Any], folder: Path) -> WhisperConfig:
    """Return the config that the shapes of the weights and the vocabulary say."""
    n_tokens, width = _shape(model, "decoder/embeddings/weight", 2, folder)
    if len(tokens) != n_tokens:
        raise UserError(f"{folder}: the vocabulary has {len(tokens)} tokens, the weights are for {n_tokens}")
    end = _id_of(tokens, "<|endoftext|>")
    return WhisperConfig(
        vocab_size=n_tokens,
        d_model=width,
        num_mel_bins=_shape(model, "encoder/conv1/weight", 3, folder)[1],
        max_source_positions=_shape(model, "encoder/position_encodings/encodings", 2, folder)[0],
        max_target_positions=_shape(model, "decoder/position_encodings/encodings", 2, folder)[0],
        **_sizes(model, "encoder", folder),
        **_sizes(model, "decoder", folder),
        begin_suppress_tokens=notes.get("suppress_ids_begin"),
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=_id_of(tokens, "<|startoftranscript|>"),
        architectures=["WhisperForConditionalGeneration"],
        dtype="float32",
    )


def _sizes(model: CTranslate2File, part: str, folder: Path) -> dict[str, int]:
    blocks = {found[1] for name in model.variables if (found := re.match(rf"{part}/layer_(\d+)/", name))}
    return {
        f"{part}_layers": len(blocks),
        f"{part}_attention_heads": _heads(model, part, folder),
        f"{part}_ffn_dim": _shape(model, f"{part}/layer_0/ffn/linear_0/weight", 2, folder)[0],
    }


def _shape(model: CTranslate2File, name: str, n_dimensions: int, folder: Path) -> tuple[int, ...]:
    array = model.variables.get(name)
    if array is None or array.ndim != n_dimensions:
        raise UserError(f"{folder / 'model.bin'} has no {name} of {n_dimensions} dimensions, as Whisper models have")
    return array.shape


def _heads(model: CTranslate2File, part: str, folder: Path) -> int:
    """Return the number of heads. Raises `UserError` where there is none, or the width cannot be cut into as many."""
    name, width = f"{part}/num_heads", _shape(model, "decoder/embeddings/weight", 2, folder)[1]
    found = model.variables.get(name)
    heads = int(found) if found is not None and found.ndim == 0 and found.dtype.kind == "i" else 0
    if heads < 1 or width % heads:
        raise UserError(f"{folder / 'model.bin'}: {name} is {heads}, which does not divide the width {width}")
    return heads


_NAMES = (  # of CTranslate2, of transformers
    (r"(en|de)coder/position_encodings/encodings", r"model.\1coder.embed_positions.weight"),
    (r"decoder/embeddings/weight", r"model.decoder.embed_tokens.weight"),
    (r"encoder/(conv[12])/(weight|bias)", r"model.encoder.\1.\2"),
    (r"(en|de)coder/layer_norm/(gamma|beta)", r"model.\1coder.layer_norm.\2"),
    (r"(en|de)coder/layer_(\d+)/ffn/layer_norm/(gamma|beta)", r"model.\1coder.layers.\2.final_layer_norm.\3"),
    (r"(en|de)coder/layer_(\d+)/ffn/linear_0/(weight|bias)", r"model.\1coder.layers.\2.fc1.\3"),
    (r"(en|de)coder/layer_(\d+)/ffn/linear_1/(weight|bias)", r"model.\1coder.layers.\2.fc2.\3"),
    (
        r"(en|de)coder/layer_(\d+)/self_attention/layer_norm/(gamma|beta)",
        r"model.\1coder.layers.\2.self_attn_layer_norm.\3",
    ),
    (
        r"(en|de)coder/layer_(\d+)/self_attention/linear_0/(weight|bias)",
        r"model.\1coder.layers.\2.self_attn.{q,k,v}_proj.\3",
    ),
    (
        r"(en|de)coder/layer_(\d+)/self_attention/linear_1/(weight|bias)",
        r"model.\1coder.layers.\2.self_attn.out_proj.\3",
    ),
    (r"decoder/layer_(\d+)/attention/layer_norm/(gamma|beta)", r"model.decoder.layers.\1.encoder_attn_layer_norm.\2"),
    (r"decoder/layer_(\d+)/attention/linear_0/(weight|bias)", r"model.decoder.layers.\1.encoder_attn.q_proj.\2"),
    (r"decoder/layer_(\d+)/attention/linear_1/(weight|bias)", r"model.decoder.layers.\1.encoder_attn.{k,v}_proj.\2"),
    (r"decoder/layer_(\d+)/attention/linear_2/(weight|bias)", r"model.decoder.layers.\1.encoder_attn.out_proj.\2"),
)
_NO_WEIGHTS = ("decoder/alignment_heads",)  # in config.json, too


def _weights(model: CTranslate2File) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the weights by transformers' names; stacked query, key and value apart, keys without their zero bias."""
    for name, array in model.variables.items():
        if array.ndim == 0 or name in _NO_WEIGHTS:
            continue
        names = _renamed(name)
        if len(array) % len(names):
            raise UserError(f"{name} of shape {array.shape} cannot be cut into {len(names)} equal parts")
        for renamed, piece in zip(names, np.split(array, len(names)), strict=True):
            if not renamed.endswith("k_proj.bias"):
                yield renamed, piece
            elif piece.any():
                raise UserError(f"{name} has a bias for keys, which OpenAI's Whisper has not")


def _renamed(name: str) -> list[str]:
    """Return transformers' name of a weight; several where the weight is stacked of several: `a.{q,k}` in the table."""
    for pattern, replacement in _NAMES:
        if found := re.fullmatch(pattern, name):
            renamed = found.expand(replacement).replace(".gamma", ".weight").replace(".beta", ".bias")
            before, _, rest = renamed.partition("{")
            stacked, _, behind = rest.partition("}")
            return [before + part + behind for part in stacked.split(",")]
    raise UserError(f"the weights have {name}, which OpenAI's Whisper has not")


def _check_weights(config: WhisperConfig, weights: Mapping[str, NDArray[Any]], file: Path) -> None:
    """Raise `UserError` where names or shapes are not those of transformers' network."""
    with torch.device("meta"):
        network = WhisperForConditionalGeneration(config)
    expected = {name: tuple(x.shape) for name, x in network.state_dict().items() if name != "proj_out.weight"}
    for name in sorted(expected.keys() | weights.keys()):
        found = weights[name].shape if name in weights else None
        if found != expected.get(name):
            raise UserError(f"{file}: {name} has shape {found}, {expected.get(name)} was expected")


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(array.copy())


def _generation_config(config: WhisperConfig, tokens: Vocabulary, notes: Mapping[str, Any]) -> GenerationConfig:
    """Return the settings of `generate` as OpenAI's checkpoints on the hub have them."""
    made: dict[str, Any] = {
        "alignment_heads": notes.get("alignment_heads"),
        "begin_suppress_tokens": notes.get("suppress_ids_begin"),
        "suppress_tokens": notes.get("suppress_ids"),
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "decoder_start_token_id": config.decoder_start_token_id,
        "is_multilingual": config.vocab_size >= _MULTILINGUAL_TOKENS,
        "max_initial_timestamp_index": _LATEST_FIRST_TIMESTAMP,
        "max_length": config.max_target_positions,
        "no_timestamps_token_id": _id_of(tokens, "<|notimestamps|>"),
        "prev_sot_token_id": _id_of(tokens, "<|startofprev|>"),
        "return_timestamps": False,
    }
    if made["is_multilingual"]:
        made["lang_to_id"] = {token: i for token, i in tokens.items() if _LANGUAGE.fullmatch(token)}
        made["task_to_id"] = {task: _id_of(tokens, f"<|{task}|>") for task in ("transcribe", "translate")}
        made["task"] = "transcribe"  # without a task in the prompt, base repeats itself
    return GenerationConfig(**made)


def _tokenizer(file: Path, tokens: Vocabulary) -> WhisperTokenizer:
    """Return the tokenizer of tokenizer.json, with the special tokens and timestamps of the vocabulary."""
    tokenizer = _plain_tokenizer(file)
    end = _id_of(tokens, "<|endoftext|>")
    behind = [token for token, i in tokens.items() if i > end]
    special = [token for token in behind if not _TIMESTAMP.fullmatch(token)]
    tokenizer.add_special_tokens({"extra_special_tokens": special})
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in behind if _TIMESTAMP.fullmatch(token)])
    found = tokenizer.convert_tokens_to_ids(list(tokens))
    wrong = [token for (token, i), its_own in zip(tokens.items(), found, strict=True) if i != its_own]
    if wrong:
        raise UserError(f"{file} and the vocabulary do not belong together: {wrong[0]} has another id in each")
    return tokenizer


def _plain_tokenizer(file: Path) -> WhisperTokenizer:
    """Return the tokenizer of the pieces and merges in tokenizer.json; its own special tokens are left out."""
    stored = read_json(file)
    model = stored.get("model") if isinstance(stored, dict) else None
    pieces, merges = (model.get("vocab"), model.get("merges")) if isinstance(model, dict) else (None, None)
    if not isinstance(pieces, dict) or not isinstance(merges, list):  # the library would open a file of a name
        raise UserError(f"{file} is not the tokenizer.json of a Whisper model: it has no pieces or no merges")
    try:
        pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in merges]
        return WhisperTokenizer(vocab=pieces, merges=pairs)
    except Exception as error:  # the library raises bare ones
        problem = " ".join(str(error).split())
        raise UserError(f"{file} is not the tokenizer.json of a Whisper model: {problem}") from None
