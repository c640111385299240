"""Tensors on disk: safetensors, never pickle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from layerdial.errors import UserError


def save_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write safetensors. A full or read-only disk raises `OSError`, as for any other file."""
    with disk_errors(file):
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file)


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Read safetensors. Raises `UserError` when the file is missing or damaged."""
    if not file.is_file():
        raise UserError(f"{file} does not exist; a model folder holds config.json, model.safetensors and tokens.txt")
    try:
        tensors: dict[str, Tensor] = load_file(file)
        return tensors
    except SafetensorError as error:
        raise UserError(f"{file} is not a readable safetensors file ({error}); copy it again") from None


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
