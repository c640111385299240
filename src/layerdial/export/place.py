"""Where an export may be written: a new or empty folder, or an earlier export, which is replaced as a whole."""

from __future__ import annotations

from pathlib import Path

from layerdial.errors import UserError
from layerdial.runtime.manifest import FILE, KIND, SHERPA_KIND
from layerdial.utils.files import check_writable, read_json

WEB_FILE = "web.json"
WEB_KIND = "layerdial-web"
_KINDS = {FILE: (KIND, SHERPA_KIND), WEB_FILE: (WEB_KIND,)}


def check_place(out: Path, force: bool) -> None:
    """Raise `UserError` unless `out` is new, empty, or with `force` an earlier export, which is replaced."""
    if out.is_file():
        raise UserError(f"{out} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not _is_export(out):
        raise UserError(f"{out} holds something that is no export; name a new folder, or remove it")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise UserError(f"{out} holds an export already; add --force to replace it, or name a new folder")
    check_writable(out.parent)


def _is_export(folder: Path) -> bool:
    return any(_kind_in(folder / name) in kinds for name, kinds in _KINDS.items())


def _kind_in(file: Path) -> object:
    stored = read_json(file) if file.is_file() else None
    return stored.get("kind") if isinstance(stored, dict) else None
