"""Whisper's tokenizer: text as the decoder writes it, with capitals and punctuation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layerdial.errors import UserError

_END = "<|endoftext|>"


class WhisperTextTokenizer:
    """The library's tokenizer. Its ids are the network's; there is no blank, and every text ends with `end`."""

    def __init__(self, processor: Any, vocab_size: int, where: str) -> None:
        self.processor = processor
        self._tokenizer = processor.tokenizer
        found = len(self._tokenizer)
        if found > vocab_size:
            raise UserError(f"{where}: its decoder has {vocab_size} tokens, its tokenizer {found}; copy both again")
        named = self._tokenizer.convert_ids_to_tokens(list(range(found)))
        self.tokens: list[str] = [*named, *(f"<|unused{i}|>" for i in range(found, vocab_size))]
        if _END not in named:
            raise UserError(f"{where}: its tokenizer has no {_END}, so it is not Whisper's")
        self.end = named.index(_END)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, and of its end. Texts begin with a space, as those that Whisper was trained on."""
        words = " ".join(text.split())
        ids = self._tokenizer(f" {words}" if words else "", add_special_tokens=False).input_ids
        return [*ids, self.end]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text as the model writes it, without special tokens."""
        return " ".join(self._tokenizer.decode([i for i in ids if i < self.end]).split())

    def save(self, folder: Path) -> None:
        self.processor.save_pretrained(folder)
