"""The keys of a server's clients: read from a file, kept as digests, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from pathlib import Path

from layerdial.errors import UserError

_log = logging.getLogger(__name__)
_KEY = re.compile(r"[\x21-\x7e]{16,512}")
_HOW = "give a key a line, each of 16 characters or more without spaces"


class ApiKeys:
    """The keys that are let in."""

    def __init__(self, keys: list[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def admits(self, key: str) -> bool:
        """Return whether a key is one of them; that takes as long for any key."""
        found = _digest(key)
        return any([hmac.compare_digest(found, digest) for digest in self._digests])  # noqa: C419 - all are compared


def read_keys(file: Path) -> ApiKeys:
    """Read the keys of a file; empty lines and those that begin with `#` are left out.

    Raises `UserError`, which does not repeat any key. A file that others can read gets a warning.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        shared = file.stat().st_mode & 0o077
    except UnicodeDecodeError:
        raise UserError(f"{file} is no UTF-8 text; {_HOW}") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); {_HOW}") from None
    keys = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip() and line[0] != "#"]
    for number, key in keys:
        if not _KEY.fullmatch(key):
            raise UserError(f"{file}, line {number}: this is no key; {_HOW}")
    if not keys:
        raise UserError(f"{file} has no keys; {_HOW}")
    if shared:
        _log.warning("%s can be read by others on this machine; chmod 600 ends that", file)
    return ApiKeys([key for _, key in keys])


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
