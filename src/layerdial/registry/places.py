"""Where a model that has a name lies: in the clone of the repository, in the user's cache, or not here yet."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit

import layerdial
from layerdial.errors import UserError
from layerdial.registry.entries import Entry
from layerdial.utils.cache import user_cache

_MANIFEST = "manifest.json"


def clone_folder(name: str) -> Path:
    """Return `models/NAME` of the clone that the package runs from, or else of the one that it was installed from."""
    here = Path(layerdial.__file__).parents[2]
    return (here if (here / "models" / name).is_dir() else installed_from() or here) / "models" / name


def installed_from() -> Path | None:
    """Return the folder of `pip install FOLDER`, which pip notes (PEP 610). It may have been removed since."""
    from urllib.request import url2pathname  # takes time to import

    try:
        url = urlsplit(json.loads(distribution("layerdial").read_text("direct_url.json") or "{}").get("url", ""))
    except (PackageNotFoundError, ValueError):
        return None
    return Path(url2pathname(url.path)) if url.scheme == "file" else None


def cache_folder(entry: Entry) -> Path:
    """Return where a fetched model is kept; other files under its name are kept apart.

    Raises `UserError` where the user has no home.
    """
    cache = user_cache()
    if cache is None:
        raise UserError("there is no home to keep models in; set LAYERDIAL_CACHE to a folder")
    return cache / "models" / f"{entry.name}-{entry.version}"


def place_of(entry: Entry) -> tuple[str, Path | None]:
    """Return "shipped", "cached" or "to fetch", and the folder where there is one."""
    if (clone_folder(entry.name) / _MANIFEST).is_file():
        return "shipped", clone_folder(entry.name)
    if user_cache() is not None and (folder := cache_folder(entry)).is_dir():
        return "cached", folder
    return "to fetch", None
