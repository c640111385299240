"""Tensors on disk: safetensors, never pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from layerdial.errors import UserError
from layerdial.utils.checksums import State, state_of
from layerdial.utils.files import replacing
from layerdial.utils.limited_json import parse_json

_HASH, _BESIDE = "layerdial.sha256", "layerdial.beside"
_checked: set[State] = set()


def save_tensors(file: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
    """Write safetensors with their hash; a full or read-only disk raises `OSError` like any other file."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with disk_errors(file):
        save_file(plain, file, metadata={"format": "pt", _HASH: _hash(plain), **(notes or {})})


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Read safetensors. Raises `UserError` when the file is missing or damaged, even by one bit.

    The hash is checked once for each state of a file, and not where there is none, as in files of other software.
    """
    if not file.is_file():
        raise UserError(f"{file} does not exist; a model folder holds config.json, model.safetensors and tokens.txt")
    try:
        with safe_open(file, framework="pt") as opened:
            expected = (opened.metadata() or {}).get(_HASH)
        tensors: dict[str, Tensor] = load_file(file)
    except SafetensorError as error:
        raise UserError(f"{file} is not a readable safetensors file ({error}); copy it again") from None
    state = state_of(file)
    if expected is not None and state not in _checked:
        if _hash(tensors) != expected:
            raise UserError(f"{file} is damaged (its weights are not those that were written); copy it again")
        _checked.add(state)
    return tensors


def add_hash(file: Path, beside: Mapping[str, Any]) -> None:
    """Write safetensors again with their hash, and a note of what lies beside them."""
    with replacing(file) as temporary:
        save_tensors(temporary, load_file(file), {_BESIDE: json.dumps(beside)})


def beside_weights(file: Path) -> dict[str, Any]:
    """Return what `add_hash` noted; nothing where it noted nothing."""
    try:
        with safe_open(file, framework="pt") as opened:
            found = parse_json((opened.metadata() or {}).get(_BESIDE, "{}"))
    except (OSError, SafetensorError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and contents; a gigabyte takes about a second."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_weights(network: nn.Module, file: Path) -> None:
    """Load the tensors of `file` into `network`, which must have exactly these names and shapes."""
    tensors = load_tensors(file)
    own = network.state_dict()
    wrong = sorted(set(own) ^ set(tensors)) or [name for name in own if own[name].shape != tensors[name].shape]
    if wrong:
        raise UserError(f"{file} does not fit the network of its config.json; the first that differs is {wrong[0]}")
    network.load_state_dict(tensors, assign=True)


@contextmanager
def disk_errors(file: Path) -> Iterator[None]:
    """Convert the safetensors error for a full or read-only disk to the `OSError` that it is."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(None, str(error), str(file)) from error
