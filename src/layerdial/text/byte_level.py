"""Tokens of a byte-level BPE (GPT-2, Whisper) back to text. A character of a token is a byte."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from layerdial.text.tokenizer import save_tokens


class ByteTable:
    """A decoder alone, all that an exported model needs. Tokens from `end` on are special and write nothing.

    `bytes` are those of each token before `end`.
    """

    def __init__(self, tokens: Sequence[str], end: int) -> None:
        self.tokens = list(tokens)
        self.end = end
        self.bytes = [_bytes_of(token) for token in tokens[:end]]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text with single spaces. Bytes that are no UTF-8 become U+FFFD."""
        text = b"".join(self.bytes[i] for i in ids if i < self.end).decode("utf-8", errors="replace")
        return " ".join(text.split())

    def save(self, folder: Path) -> None:
        save_tokens(self.tokens, folder)


def _bytes_of(token: str) -> bytes:
    known = _alphabet()
    return b"".join(known.get(letter, letter.encode()) for letter in token)


@cache
def _alphabet() -> dict[str, bytes]:
    """Return the byte of each character: printable ones stand for themselves, the others for U+0100 and after."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    found = {chr(byte): bytes([byte]) for byte in printable}
    return found | {chr(256 + i): bytes([byte]) for i, byte in enumerate(others)}
