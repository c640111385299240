"""The model folder: config.json, model.safetensors, tokens.txt (and bpe.model), meta.json; later ladder.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from layerdial.config import ConformerConfig, parse
from layerdial.errors import UserError
from layerdial.features import FRAMES_PER_SECOND
from layerdial.files import read_json, replacing, write_json
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.modules.subsampling import SUBSAMPLING
from layerdial.text import Tokenizer, load_tokenizer

FORMAT = 1
FRAME_RATE = FRAMES_PER_SECOND / SUBSAMPLING


def save_model(folder: Path, network: ConformerCTC, tokenizer: Tokenizer, meta: Mapping[str, Any]) -> None:
    """Write a model folder in one step. A kill in that step leaves the old one, at worst under the name `.NAME.old`."""
    with replacing(folder) as temporary:
        temporary.mkdir(parents=True)
        save_tensors(temporary / "model.safetensors", network.state_dict())
        tokenizer.save(temporary)
        write_json(temporary / "config.json", describe_network(network))
        write_json(temporary / "meta.json", dict(meta))


def describe_network(network: ConformerCTC) -> dict[str, Any]:
    """What config.json holds."""
    return {
        "format": FORMAT,
        "vocab_size": network.head.out_features,
        "frame_rate": FRAME_RATE,
        "model": network.config.model_dump(exclude_none=True),
    }


def load_network(folder: Path) -> tuple[ConformerCTC, Tokenizer]:
    """The network (in `eval()`, on the CPU) and its tokenizer; `UserError` names what is missing or does not fit."""
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise UserError(f"{folder} is not a model folder: it has no config.json (a run keeps its model in RUN/model)")
    stored = read_json(config_file)
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        found = stored.get("format") if isinstance(stored, dict) else None
        raise UserError(f"{config_file} has format {found!r}; this layerdial reads format {FORMAT}")
    missing = sorted({"vocab_size", "frame_rate", "model"} - set(stored))
    if missing:
        raise UserError(f"{config_file} lacks {', '.join(missing)}; copy it again")
    if stored["frame_rate"] != FRAME_RATE:
        raise UserError(f"{folder} has {stored['frame_rate']} frames a second, this layerdial's networks {FRAME_RATE}")
    tokenizer = load_tokenizer(folder)
    if len(tokenizer.tokens) != stored["vocab_size"]:
        raise UserError(f"{folder}: tokens.txt has {len(tokenizer.tokens)} tokens, the model {stored['vocab_size']}")
    with torch.device("meta"):
        network = ConformerCTC(parse(ConformerConfig, stored["model"], str(config_file)), stored["vocab_size"])
    load_weights(network, folder / "model.safetensors")
    return network.eval(), tokenizer


def load_weights(network: torch.nn.Module, file: Path) -> None:
    """Put the tensors of `file` into `network`, which must have exactly these names and shapes."""
    tensors = load_tensors(file)
    own = network.state_dict()
    wrong = sorted(set(own) ^ set(tensors)) or [name for name in own if own[name].shape != tensors[name].shape]
    if wrong:
        raise UserError(f"{file} does not fit the network of its config.json; the first that differs is {wrong[0]}")
    network.load_state_dict(tensors, assign=True)


def save_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write safetensors; a full or read-only disk raises `OSError` like any other file."""
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file)
    except SafetensorError as error:
        raise OSError(None, str(error), str(file)) from error


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Read safetensors; `UserError` when the file is missing or damaged."""
    if not file.is_file():
        raise UserError(f"{file} does not exist; a model folder holds config.json, model.safetensors and tokens.txt")
    try:
        tensors: dict[str, Tensor] = load_file(file)
        return tensors
    except SafetensorError as error:
        raise UserError(f"{file} is not a readable safetensors file ({error}); copy it again") from None
