"""Files: replaced in one step, so that a kill or a full disk leaves the old or the new one; read; compared."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from layerdial.errors import UserError
from layerdial.utils.limited_json import MOST_BYTES, parse_json
from layerdial.utils.temporary import remove, temporary_folder


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON in one step."""
    write_text(path, json_text(value, indent=2) + "\n")


def json_text(value: Any, indent: int | None = None) -> str:
    """Return `value` as JSON that can be written in UTF-8, also where it has file names that are no UTF-8."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def read_json(path: Path) -> Any:
    """Return the JSON value in `path`. Raises `UserError` when it is missing or not JSON."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise UserError(f"{path} is larger than {MOST_BYTES // 2**20} MB, which no file of this kind is")
        return parse_json(text)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
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
    if path.name and (old := _aside(path)).is_dir() and not path.exists():
        with suppress(OSError):  # read-only: what is missing is said by whoever looks for it
            os.replace(old, path)
    return path


def check_writable(folder: Path) -> None:
    """Raise `UserError` before the work when nothing can be written in `folder` (which is made if need be)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder, "writable") as trial:
            (trial / "file").touch()
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"cannot write {folder}: a file is there, or on the way there; choose another place") from None
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}; free the disk or choose another place"
        ) from error


def contents(manifest: Path, with_places: bool = True) -> str:
    """Return a short hash of a manifest's contents, so that a corpus that was made anew is noticed."""
    try:
        found = manifest.stat()
        return _hash(manifest, found.st_mtime_ns, found.st_size, with_places)
    except FileNotFoundError:
        raise UserError(f"{manifest} does not exist; give a manifest that `layerdial prepare` wrote") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{manifest} cannot be read: {error}") from None


def contents_anywhere(manifest: Path) -> str:
    """Return a short hash of a manifest without the folders of its audio: a corpus that was moved has the same."""
    return contents(manifest, with_places=False)


_BLOCK = 1024 * 1024  # a line that is longer is hashed in pieces
_FOLDERS = re.compile(rb'("source": ")(?:[^"\\]|\\.)*/')


@cache
def _hash(manifest: Path, changed: int, size: int, with_places: bool) -> str:
    """Return the hash of a manifest of this time and size, cached: every run of a suite needs the same few files."""
    digest = hashlib.sha256()
    with gzip.open(manifest, "rb") if manifest.suffix == ".gz" else manifest.open("rb") as file:
        while block := file.read(_BLOCK) if with_places else file.readline(_BLOCK):  # a little gzip can hold much
            digest.update(block if with_places else _FOLDERS.sub(rb"\1", block))
    return digest.hexdigest()[:16]


def model_name(model: Path) -> str:
    """Return the name of a model: sc_exits for `runs/demo/sc_exits/model`, for a hub id the id itself."""
    if not model.exists():
        return str(model)
    return model.resolve().parent.name if model.name == "model" else model.name


def _flush(file: Path) -> None:
    if file.is_file():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def _flush_names(folder: Path) -> None:
    """Flush the names in a folder to disk, where the system can."""
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
