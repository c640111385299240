"""Any tokenizer as a plain list of pieces, from which a device writes text."""

from __future__ import annotations

import random
from typing import Any

from layerdial.errors import UserError
from layerdial.text.byte_level import ByteTable
from layerdial.text.tokenizer import SPACE, BpeTokenizer, ListTokenizer, PieceTable, Tokenizer

_TRIALS = 200


def piece_table(tokenizer: Tokenizer) -> tuple[PieceTable, tuple[int, ...]]:
    """Return the table of pieces, and the ids without text, for example the library's special tokens.

    `▁` begins a word and the blank is `<blk>`, as sherpa-onnx expects. Raises `UserError` for a tokenizer whose texts
    are not its pieces one after the other.
    """
    silent: tuple[int, ...] = ()
    if isinstance(tokenizer, ListTokenizer) and tokenizer.kind == "word":
        tokens = [tokenizer.tokens[0], *(SPACE + word for word in tokenizer.tokens[1:])]
    elif isinstance(tokenizer, ListTokenizer | BpeTokenizer):
        tokens = list(tokenizer.tokens)
    else:
        tokens, silent = _library_pieces(tokenizer)
    table = PieceTable(tokens, silent)
    _compare(table, tokenizer, range(1, len(table.tokens)))
    return table, silent


def byte_table(tokenizer: Tokenizer, end: int) -> ByteTable:
    """Return the table of byte-level tokens, of which those from `end` on write nothing; raises as `piece_table`."""
    table = ByteTable(tokenizer.tokens, end)
    _compare(table, tokenizer, range(end))
    return table


def _library_pieces(tokenizer: Any) -> tuple[list[str], tuple[int, ...]]:
    """Return the pieces and silent ids of a Hugging Face tokenizer, with `▁` for its word delimiter."""
    library = tokenizer.processor.tokenizer
    delimiter = getattr(library, "word_delimiter_token", None)
    special = set(library.all_special_tokens) - {delimiter}
    tokens = [SPACE if token == delimiter else token for token in tokenizer.tokens]
    if getattr(library, "do_lower_case", False):
        tokens = [token if token in special else token.lower() for token in tokens]
    silent = tuple(i for i, token in enumerate(tokenizer.tokens) if token in special and i > 0)
    return ["<blk>", *tokens[1:]], silent


def _compare(table: PieceTable | ByteTable, tokenizer: Tokenizer, labels: range) -> None:
    """Raise `UserError` unless both give the same text for random labels."""
    draw = random.Random(0)
    for _ in range(_TRIALS):
        ids = draw.choices(labels, k=draw.randint(1, 30))
        ours, theirs = table.decode(ids), tokenizer.decode(ids)
        if ours != theirs:
            raise UserError(
                f"this tokenizer cannot be exported: it writes {theirs[:40]!r} where its pieces spell {ours[:40]!r}"
            )
