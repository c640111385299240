"""Files: written so that a kill or a full disk leaves the old one or the new one, never a half; read; compared."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from layerdial.errors import UserError
from layerdial.utils.temporary import remove, temporary_folder


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in `path`; `UserError` when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path near `path`; on success flush it to disk and move it there, on failure remove it.

    Works for a file and for a folder (which then replaces a folder of that name): at every moment the old one or the
    new one is there. What killed processes left beside it is removed. `UserError` when the place cannot be written
    (read-only or full).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        recover(path)
        with temporary_folder(path.parent, path.name) as folder:
            temporary = folder / path.name
            yield temporary
            if temporary.is_dir():
                for file in temporary.rglob("*"):
                    _flush(file)
                _swap_folder(temporary, path)
            else:
                _flush(temporary)
                os.replace(temporary, path)
            _flush_names(path.parent)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free the disk or choose another place"
        ) from error


def recover(path: Path) -> Path:
    """Return `path`, after putting back a folder that a kill left as `.NAME.old` while it was being replaced."""
    old = _aside(path)
    if old.is_dir() and not path.exists():
        with suppress(OSError):  # read-only: what is missing is said by whoever looks for it
            os.replace(old, path)
    return path


def check_writable(folder: Path) -> None:
    """`UserError` now, and not after the work, when nothing can be written in `folder` (which is made if need be)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder, "writable") as trial:
            (trial / "file").touch()
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}; free the disk or choose another place"
        ) from error


def contents(manifest: Path, with_places: bool = True) -> str:
    """A short hash of what a manifest lists: a corpus that was made anew is noticed."""
    try:
        found = manifest.stat()
        return _hash(manifest, found.st_mtime_ns, found.st_size, with_places)
    except FileNotFoundError:
        raise UserError(f"{manifest} does not exist; give a manifest that `layerdial prepare` wrote") from None
    except (OSError, EOFError) as error:
        raise UserError(f"{manifest} cannot be read: {error}") from None


def contents_anywhere(manifest: Path) -> str:
    """A short hash of what a manifest lists, wherever its audio lies: a corpus that was moved is the same."""
    return contents(manifest, with_places=False)


_FOLDERS = re.compile(rb'("source": ")(?:[^"\\]|\\.)*/')


@cache
def _hash(manifest: Path, changed: int, size: int, with_places: bool) -> str:
    """Every run of a suite asks for the same few files."""
    digest = hashlib.sha256()
    with gzip.open(manifest, "rb") if manifest.suffix == ".gz" else manifest.open("rb") as file:
        for line in file:
            digest.update(line if with_places else _FOLDERS.sub(rb"\1", line))
    return digest.hexdigest()[:16]


def model_name(model: Path) -> str:
    """`runs/demo/sc_exits/model` is called sc_exits, a hub id by itself."""
    if not model.exists():
        return str(model)
    return model.resolve().parent.name if model.name == "model" else model.name


def _flush(file: Path) -> None:
    if file.is_file():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def _flush_names(folder: Path) -> None:
    """That a file has a new name is on disk too; systems and disks that cannot say so are left alone."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _swap_folder(new: Path, place: Path) -> None:
    """Put a folder where another may be; the old one goes with the temporary folder that `new` was in."""
    old = _aside(place)
    if not place.exists():
        os.replace(new, place)
    elif not _exchange(new, place):  # in two steps then, between which `recover` helps
        remove(old)
        os.replace(place, old)
        os.replace(new, place)
    remove(old)


def _aside(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two paths in one step; false on systems and disks that cannot."""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        import ctypes

        rename = ctypes.CDLL(None).renameat2
    except (ImportError, OSError, AttributeError, TypeError):
        return False
    return bool(rename(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0)
