"""The folder of a model that a user names: a folder, or a name of the registry.

What a folder does not need is imported late.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from layerdial.errors import UserError
from layerdial.utils.files import recover

if TYPE_CHECKING:
    from layerdial.registry.entries import Entry

_SIGNS = ("manifest.json", "config.json")  # one of which every model folder has


def is_model_folder(folder: Path) -> bool:
    """Whether a path is a folder that holds a model, exported or of torch."""
    return any((folder / sign).is_file() for sign in _SIGNS)


def model_folder(model: str | Path) -> Path:
    """Return the folder of a model: `model` itself, or for a name of the registry its folder, fetched if need be.

    A folder that holds a model comes before a name. Raises `UserError` for a name that neither has.
    """
    path = recover(Path(model))
    if len(path.parts) != 1 or is_model_folder(path):
        return path
    from layerdial.registry.entries import read_entries

    if path.exists() and path.name not in read_entries():
        return path
    return registered_folder(path.name)


def registered_folder(name: str) -> Path:
    """Return the folder of a model by its name. Raises `UserError` with the known names, or where it cannot be had."""
    from layerdial.registry.places import place_of

    entry = find_entry(name)
    _, folder = place_of(entry)
    if folder is not None:
        return folder
    from layerdial.registry.fetch import fetch

    return fetch(entry)


def find_entry(name: str) -> Entry:
    """Return the entry of a name. Raises `UserError`, which lists the names that there are."""
    from layerdial.registry.entries import read_entries

    entries = read_entries()
    if name not in entries:
        known = f"the registry has {', '.join(entries)}" if entries else "the registry of this version is empty"
        raise UserError(f"there is no model {name!r}: no folder of that name is here, and {known}")
    return entries[name]
