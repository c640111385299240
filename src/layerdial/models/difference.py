"""What a student changed of the model that it began with, as a small folder; and both joined again.

The folder holds the tensors that differ, in fp16, the ladder, and a description by which another start is recognised.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerdial.errors import UserError
from layerdial.ladder import Ladder
from layerdial.models.checkpoint import load_network, resolve_model, save_model
from layerdial.models.network import Network
from layerdial.models.tensors import load_tensors, save_tensors
from layerdial.text.tokenizer import Tokenizer
from layerdial.utils.files import read_json, replacing, write_json

_TENSORS, _DESCRIPTION, _FORMAT = "difference.safetensors", "difference.json", 1
_RELATIVE = 1e-3  # a start that was stored in fp16 or bf16 differs by less, another model by more


def write_difference(model: Path, start: Path, out: Path) -> int:
    """Write what `model` has other than `start`, and return the number of tensors.

    Raises `UserError` where `out` exists, where the networks or tokens differ, and where no weight or all differ.
    """
    if out.exists():
        raise UserError(f"{out} exists already; choose another folder")
    (model, network, tokenizer), (start, began, its_tokenizer) = _load(model), _load(start)
    state, old = network.state_dict(), began.state_dict()
    _check_shapes(state, old, model, start)
    if tokenizer.tokens != its_tokenizer.tokens:
        raise UserError(f"{model} has other tokens than {start}; give the model that its training began with")
    changed = {name: tensor for name, tensor in state.items() if not torch.equal(tensor, old[name])}
    if len(changed) in (0, len(state)):
        found = "the weights of" if not changed else "no weight in common with"
        raise UserError(f"{model} has {found} {start}; give the model that its training began with")
    any_length = not getattr(network, "pads_input", False)
    description = {"format": _FORMAT, "start": start.name, "takes_any_length": any_length}
    with replacing(out) as temporary:
        temporary.mkdir(parents=True)
        save_tensors(temporary / _TENSORS, {name: tensor.half() for name, tensor in changed.items()})
        write_json(temporary / _DESCRIPTION, description | {"unchanged": _sizes(old, changed)})
        ladder = Ladder.beside(model, network.n_blocks)
        if ladder is not None:
            ladder.save(temporary / "ladder.json")
    return len(changed)


def join_difference(start: Path, difference: Path, out: Path) -> Network:
    """Write the model that `start` and a folder of `write_difference` make, and return it.

    Raises `UserError` where `out` exists, where `difference` is no such folder, and where it belongs to another start.
    """
    if out.exists():
        raise UserError(f"{out} exists already; choose another folder")
    description = _read_description(difference)
    start, network, tokenizer = _load(start)
    changed = {name: tensor.float() for name, tensor in load_tensors(difference / _TENSORS).items()}
    state = network.state_dict()
    _check_start(state, changed, description, start, difference)
    network.load_state_dict({**state, **changed})
    if hasattr(network, "pads_input"):
        setattr(network, "pads_input", not description["takes_any_length"])  # noqa: B010 - not every network has it
    ladder = Ladder.beside(difference, network.n_blocks)
    save_model(out, network, tokenizer, {"joined_from": [str(start), str(difference)]}, ladder)
    return network


def _load(model: Path) -> tuple[Path, Network, Tokenizer]:
    folder = resolve_model(model)
    return folder, *load_network(folder)


def _sizes(state: Mapping[str, Tensor], without: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the mean magnitude of each tensor but those of `without`."""
    kept = {name: tensor for name, tensor in state.items() if name not in without}
    return {name: float(tensor.double().abs().mean()) for name, tensor in kept.items()}


def _check_shapes(state: Mapping[str, Tensor], other: Mapping[str, Tensor], model: Path, start: Path) -> None:
    for name in sorted({*state, *other}):
        shapes = [tuple(found[name].shape) if name in found else None for found in (state, other)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{model} is of another network than {start}: {name} has shape {shapes[0]}, not {shapes[1]}"
            )


def _read_description(difference: Path) -> dict[str, Any]:
    file = difference / _DESCRIPTION
    if not file.is_file():
        raise UserError(f"{difference} has no {_DESCRIPTION}; give a folder that layerdial difference wrote")
    found = read_json(file)
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise UserError(f"{file} is of a format that this version does not read; install a newer layerdial")
    sizes = found.get("unchanged")
    if not isinstance(sizes, dict) or not all(isinstance(size, int | float) for size in sizes.values()):
        raise UserError(f"{file} is damaged (unchanged is no table of numbers); copy it again")
    if not isinstance(found.get("takes_any_length"), bool):
        raise UserError(f"{file} is damaged (takes_any_length is {found.get('takes_any_length')!r}); copy it again")
    return found


def _check_start(
    state: Mapping[str, Tensor],
    changed: Mapping[str, Tensor],
    description: Mapping[str, Any],
    start: Path,
    difference: Path,
) -> None:
    """Raise `UserError` unless the start has all tensors by name and shape, and about the values that were not kept."""
    wanted, sizes = description.get("start"), _sizes(state, changed)
    wrong = sorted(name for name in changed if name not in state or state[name].shape != changed[name].shape)
    wrong = wrong or sorted({*sizes} ^ {*description["unchanged"]})
    wrong = wrong or [name for name, size in description["unchanged"].items() if not _near(sizes[name], size)]
    if wrong:
        raise UserError(f"{start} is not what {difference} changes ({wrong[0]} differs); give {wanted}, as published")


def _near(size: float, wanted: float) -> bool:
    return abs(size - wanted) <= _RELATIVE * abs(wanted)
