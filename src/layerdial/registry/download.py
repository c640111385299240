"""One file by HTTP: continued where an earlier attempt stopped, and kept only if it is the file that is expected.

What arrives is written, compared and never executed. `urllib` follows the proxies of the environment.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from layerdial import __version__
from layerdial.errors import UserError
from layerdial.registry.entries import ModelFile

_TIMEOUT_S = 30.0  # of a connection and of each wait for data
_WAIT_S = 1.0  # before a connection that broke is made again
_MOST_BREAKS = 20
_BLOCK = 256 * 1024
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")

Received = Callable[[int], None]


class Unreachable(Exception):
    """The server did not answer, or the connection broke and could not be made again."""


def download(url: str, part: Path, wanted: ModelFile, received: Received) -> None:
    """Fetch `url` to `part`, from where `part` ends already; `received` is called with the bytes that are there.

    Raises `UserError` for an answer that is no such file, and for contents that are not the `wanted` ones, which are
    removed. Raises `Unreachable` where nothing arrives; what arrived before is kept.
    """
    if _size(part) > wanted.size:
        part.unlink()
    for _ in range(_MOST_BREAKS):
        before = _size(part)
        if before == wanted.size:
            break
        try:
            _append(url, part, wanted, received)
        except Unreachable:
            if _size(part) <= before:
                raise
        if _size(part) < wanted.size:
            time.sleep(_WAIT_S)
    if _size(part) < wanted.size:
        raise Unreachable(f"the connection breaks again and again, at last at byte {_size(part):,}")
    _check(url, part, wanted)


def _append(url: str, part: Path, wanted: ModelFile, received: Received) -> None:
    """Append what one connection gives, from the start where the server cannot begin elsewhere."""
    have = _size(part)
    with _connect(url, have) as response:
        have = _first_byte(url, response, have, wanted)
        with part.open("ab" if have else "wb") as file:
            while block := _read(url, response):
                have += len(block)
                if have > wanted.size:
                    raise _changed(url, f"more than the {wanted.size:,} bytes of the registry")
                file.write(block)
                received(have)
    if have < wanted.size:
        raise Unreachable(f"the connection broke at byte {have:,} of {wanted.size:,}")


def _connect(url: str, have: int) -> Any:
    headers = {"User-Agent": f"layerdial/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with _network(url):
        return urlopen(Request(url, headers=headers), timeout=_TIMEOUT_S)


def _read(url: str, response: Any) -> bytes:
    with _network(url):
        return response.read(_BLOCK)  # type: ignore[no-any-return]


@contextmanager
def _network(url: str) -> Iterator[None]:
    """Turn an error of the network into `Unreachable`, and a refusal of the server into a `UserError`."""
    try:
        yield
    except HTTPError as error:
        error.close()
        raise UserError(
            f"{url} cannot be fetched: HTTP {error.code} {error.reason}; try later, or a newer layerdial"
        ) from None
    except (OSError, HTTPException) as error:
        raise Unreachable(_reason(error)) from None


def _first_byte(url: str, response: Any, have: int, wanted: ModelFile) -> int:
    """Return where the contents of an answer begin. Raises `UserError` for a file of another size."""
    if response.status == 206:
        match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not match or int(match[1]) != have or int(match[2]) != wanted.size:
            raise _changed(url, f"not the rest of {wanted.size:,} bytes from byte {have:,} on")
        return have
    length = response.headers.get("Content-Length")
    if length is not None and length != str(wanted.size):
        raise _changed(url, f"{length} bytes, not the {wanted.size:,} of the registry")
    return 0


def _check(url: str, part: Path, wanted: ModelFile) -> None:
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted.sha256:
        part.unlink()
        raise _changed(url, "contents of another SHA-256 than the registry's")


def _changed(url: str, found: str) -> UserError:
    return UserError(
        f"{url} was changed or damaged: the server gives {found}; nothing of it is kept; try again, or install a newer "
        "layerdial"
    )


def _reason(error: Exception) -> str:
    reason = error.reason if isinstance(error, URLError) else error
    text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return text or type(reason).__name__


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def host_of(url: str) -> str:
    """Return the host of a URL, for messages."""
    return urlsplit(url).netloc
