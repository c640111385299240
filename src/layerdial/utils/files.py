"""Files: replaced in one step, so that a kill or a full disk leaves the old or the new one; read; compared."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from layerdial.errors import UserError


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
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and move it there, on failure remove it.

    Works for a file and for a folder (which then replaces a folder of that name). Raises `UserError` when the place
    cannot be written (read-only or full).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_dir():
            for file in temporary.rglob("*"):
                _flush(file)
            _swap_folder(temporary, path)
        else:
            _flush(temporary)
            os.replace(temporary, path)
    except OSError as error:
        _remove(temporary)
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free the disk or choose another place"
        ) from error
    except BaseException:
        _remove(temporary)
        raise


def check_writable(folder: Path) -> None:
    """Raise `UserError` before the work when nothing can be written in `folder` (which is made if need be)."""
    trial = folder / ".writable"
    with replacing(trial) as temporary:
        temporary.touch()
    trial.unlink(missing_ok=True)  # another process may have tried the same


def wait_for_lock(file: IO[Any]) -> None:
    """Wait until no other process holds a lock of an open file, and hold it until the file is closed.

    Without effect on systems and disks that have no such locks.
    """
    with suppress(ModuleNotFoundError, OSError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def contents(manifest: Path) -> str:
    """Return a short hash of a manifest's contents, so that a corpus that was made anew is noticed."""
    try:
        found = manifest.stat()
        return _hash(manifest, found.st_mtime_ns, found.st_size)
    except FileNotFoundError:
        raise UserError(f"{manifest} does not exist; give a manifest that `layerdial prepare` wrote") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{manifest} cannot be read: {error}") from None


@cache
def _hash(manifest: Path, changed: int, size: int) -> str:
    """Return the hash of a manifest of this time and size, cached: every run of a suite needs the same few files."""
    with gzip.open(manifest, "rb") if manifest.suffix == ".gz" else manifest.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):  # never the whole: a few bytes of gzip can hold more than memory
            digest.update(block)
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


def _swap_folder(new: Path, place: Path) -> None:
    # A folder cannot be replaced in one step: move the old one aside, so that a kill in between loses nothing.
    old = place.with_name(f".{place.name}.old")
    _remove(old)
    if place.exists():
        os.replace(place, old)
    os.replace(new, place)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):  # the next step reports an obstacle
        path.unlink(missing_ok=True)
