"""CTranslate2's `model.bin` read without CTranslate2: a header, then each weight's name, shape, type and bytes.

The format is that of `ctranslate2.specs.model_spec` (`_save_variables`), binary versions 4 to 6.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdial.errors import UserError

_VERSIONS = (4, 5, 6)
_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_MOST_DIMENSIONS = 8


@dataclass(frozen=True)
class CTranslate2File:
    """The kind of model that a file holds, its weights (read-only views of the file), and other names for these."""

    spec: str
    revision: int
    variables: dict[str, NDArray[Any]]
    aliases: dict[str, str]


def read_ctranslate2(file: Path) -> CTranslate2File:
    """Return what a `model.bin` holds.

    Raises `UserError` for a file that is missing, cut short, longer than it says, or of another format.
    """
    try:
        return _Reader(file).read()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, struct.error):
        raise UserError(f"{file} is damaged: a name in it is no text; copy it again") from None


class _Reader:
    """A place in the file, which never goes beyond its end."""

    def __init__(self, file: Path) -> None:
        self._file = file
        size = file.stat().st_size
        self._bytes: NDArray[np.uint8] = np.memmap(file, np.uint8, "r") if size else np.empty(0, np.uint8)
        self._at = 0

    def read(self) -> CTranslate2File:
        version = self._number("I")
        if version not in _VERSIONS:
            raise UserError(
                f"{self._file} is no CTranslate2 model of binary version {_VERSIONS[0]} to {_VERSIONS[-1]}"
                f" (it begins with {version})"
            )
        spec, revision = self._text(), self._number("I")
        variables = dict(self._variable() for _ in range(self._number("I")))
        aliases = {self._text(): self._text() for _ in range(self._number("I"))}
        if beyond := len(self._bytes) - self._at:
            raise UserError(f"{self._file} has {beyond} bytes behind its end; copy it again")
        return CTranslate2File(spec, revision, variables, aliases)

    def _variable(self) -> tuple[str, NDArray[Any]]:
        name, n_dimensions = self._text(), self._number("B")
        if n_dimensions > _MOST_DIMENSIONS:
            raise UserError(f"{self._file} is damaged: {name} has {n_dimensions} dimensions")
        shape = tuple(self._number("I") for _ in range(n_dimensions))
        kind, size = self._number("B"), self._number("I")
        if kind not in _TYPES:
            raise UserError(f"{self._file}: {name} is of type {kind}; float32 and float16 can be converted")
        dtype = np.dtype(_TYPES[kind]).newbyteorder("<")
        if prod(shape) * dtype.itemsize != size:
            raise UserError(f"{self._file} is damaged: {name} of shape {shape} has {size} bytes; copy it again")
        return name, self._take(size).view(dtype).reshape(shape)

    def _text(self) -> str:
        raw = self._take(self._number("H")).tobytes()
        return raw.rstrip(b"\0").decode()

    def _number(self, code: str) -> int:
        return int(struct.unpack(f"<{code}", self._take(struct.calcsize(f"<{code}")).tobytes())[0])

    def _take(self, size: int) -> NDArray[np.uint8]:
        if size > len(self._bytes) - self._at:
            raise UserError(f"{self._file} is cut short at {len(self._bytes)} bytes; copy it again")
        self._at += size
        return self._bytes[self._at - size : self._at]
