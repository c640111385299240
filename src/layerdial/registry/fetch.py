"""A model that has a name, fetched into the user's cache: file by file, then moved into place in one step."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from layerdial.errors import UserError
from layerdial.registry.download import Received, Unreachable, download, host_of
from layerdial.registry.entries import Entry, ModelFile
from layerdial.registry.places import cache_folder
from layerdial.utils.locks import wait_for_lock
from layerdial.utils.progress import progress
from layerdial.utils.temporary import remove

_MIRROR = "LAYERDIAL_MODELS_URL"
_log = logging.getLogger(__name__)


def fetch(entry: Entry) -> Path:
    """Return the folder of a model in the user's cache, after fetching it if it is not there.

    One process fetches and the others wait for it. A fetch that was interrupted goes on where it stopped. Raises
    `UserError` where there is no address, no network or no room, and for files that are not those of the registry.
    """
    folder = cache_folder(entry)
    if folder.is_dir():
        return folder
    try:
        with _alone(folder):
            if not folder.is_dir():
                part = folder.with_name(f"{folder.name}.part")
                _fetch_files(entry, _address(entry), part)
                os.replace(part, folder)
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}; free the disk, or set LAYERDIAL_CACHE to another folder"
        ) from error
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder to be for this process and thread; another one that has it is waited for."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        wait_for_lock(lock, lambda: _log.info("waiting for another process, which fetches %s", folder.name))
        yield


def _address(entry: Entry) -> str:
    """Return the URL of the model's folder: on the mirror that the environment names, or the registry's."""
    mirror = os.environ.get(_MIRROR)
    if mirror and not mirror.startswith(("https://", "http://")):
        raise UserError(f"{_MIRROR} is {mirror!r}; give a URL that begins with https:// or http://")
    address = f"{mirror.rstrip('/')}/{entry.name}" if mirror else entry.source.rstrip("/")
    if not address:
        raise UserError(
            f"the model {entry.name} comes with a clone of the repository, as models/{entry.name}, which is not here; "
            f"give the folder of one as MODEL, or set {_MIRROR} to the URL of a folder of models"
        )
    return address


def _fetch_files(entry: Entry, address: str, part: Path) -> None:
    """Fill `part`; files of an earlier attempt are continued, and those that are whole are checked alone."""
    part.mkdir(exist_ok=True)
    for stray in set(os.listdir(part)) - {file.name for file in entry.files}:
        remove(part / stray)
    there = {file.name: _size(part / file.name) for file in entry.files}
    _check_room(entry, part, sum(there.values()))
    megabytes = _megabytes(entry.size)
    with progress(f"fetching {entry.name}, MB", megabytes, sum(there.values()) // 10**6) as update:

        def received(file: ModelFile) -> Received:
            def show(n_bytes: int) -> None:
                there[file.name] = n_bytes
                update(_megabytes(sum(there.values())), total=megabytes)

            return show

        for file in sorted(entry.files, key=lambda file: file.size):  # a wrong address is found by the smallest
            try:
                download(f"{address}/{quote(file.name)}", part / file.name, file, received(file))
            except Unreachable as unreachable:
                raise _offline(entry, address, str(unreachable), sum(there.values())) from None


def _megabytes(n_bytes: int) -> int:
    return max(1, round(n_bytes / 1e6))


def _check_room(entry: Entry, part: Path, there: int) -> None:
    free = shutil.disk_usage(part).free
    if free < entry.size - there:
        raise UserError(
            f"{part.parent} has {free / 1e6:.0f} MB free, {entry.name} needs {(entry.size - there) / 1e6:.0f} MB; "
            "free the disk, or set LAYERDIAL_CACHE to another folder"
        )


def _offline(entry: Entry, address: str, reason: str, there: int) -> UserError:
    kept = f"; the {there / 1e6:.1f} MB that arrived are kept" if there else ""
    return UserError(
        f"the model {entry.name} ({entry.size / 1e6:.0f} MB) is not on this machine, and {host_of(address)} cannot be "
        f"reached ({reason}){kept}; with a network run: layerdial models fetch {entry.name}"
    )


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
