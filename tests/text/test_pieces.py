"""Text on the device: pieces of words from a list, for every kind of tokenizer."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from layerdial.errors import UserError
from layerdial.text.pieces import piece_table
from layerdial.text.tokenizer import PieceTable, TokenizerKind, build_tokenizer, join_pieces, read_tokens

LINES = ["the quick brown fox jumps over the lazy dog", "don't stop at 7 o'clock"] * 8


# --------------------------------------------------------------------------------------------------------------- pieces


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([], ""),
        (["▁the", "▁cat", "s"], "the cats"),
        (["t", "h", "e", "▁", "c"], "the c"),
        (["▁", "▁the", "▁", "▁"], "the"),
        (["A", "▁b", "▁C"], "A b C"),
        (["a▁b"], "a b"),
        (["é", "▁ß"], "é ß"),
    ],
)
def test_pieces_join_to_words_with_single_spaces(pieces: list[str], text: str) -> None:
    assert join_pieces(pieces) == join_pieces(iter(pieces)) == text


@pytest.mark.parametrize(("kind", "size"), [("word", None), ("char", None), ("bpe", 48)])
def test_the_pieces_of_a_tokenizer_spell_what_it_does(kind: TokenizerKind, size: int | None, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(kind, LINES, size)
    table, silent = piece_table(tokenizer)
    table.save(tmp_path)
    stored = PieceTable(read_tokens(tmp_path / "tokens.txt"), silent)
    assert stored.tokens == table.tokens and silent == ()
    assert table.tokens[0] == "<blk>" and len(table.tokens) == len(tokenizer.tokens)
    random = Random(0)
    for _ in range(200):
        ids = random.choices(range(1, len(tokenizer.tokens)), k=random.randint(0, 12))
        assert table.decode(ids) == stored.decode(ids) == tokenizer.decode(ids)
    for line in LINES:
        assert stored.decode(tokenizer.encode(line)) == line


def test_words_begin_with_the_sign_for_a_space() -> None:
    """Else sherpa-onnx, which writes one token behind the other, would glue them together."""
    table, _ = piece_table(build_tokenizer("word", ["two one"]))
    assert table.tokens == ["<blk>", "▁one", "▁two"]


def test_silent_tokens_write_nothing_and_part_nothing() -> None:
    table = PieceTable(["<blk>", "<s>", "a", "b", "▁", "<unk>"], silent=[1, 5])
    assert table.decode([1, 2, 5, 3, 1]) == "ab"
    assert table.decode([2, 4, 1, 4, 3]) == "a b"
    assert table.decode([1, 5, 1]) == ""
    assert table.tokens[1] == "<s>"  # the file names it all the same


def test_a_tokenizer_whose_pieces_do_not_spell_its_text_is_refused() -> None:
    class Shouting:
        """Writes in capitals what its tokens have in small letters."""

        def __init__(self) -> None:
            self._inner = build_tokenizer("char", ["abc"])
            self.tokens = self._inner.tokens
            self.processor = self
            self.tokenizer = self
            self.all_special_tokens: list[str] = []

        def decode(self, ids: list[int]) -> str:
            return self._inner.decode(ids).upper()

    with pytest.raises(UserError, match=r"this tokenizer cannot be exported: it writes '[ABC ]+' where its pieces"):
        piece_table(Shouting())  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------- tokens.txt


def written(folder: Path, content: str | bytes) -> Path:
    file = folder / "tokens.txt"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def test_a_list_of_tokens_goes_to_disk_and_back(tmp_path: Path) -> None:
    tokens = ["<blk>", "▁", "a", "'", "#", "1", "é", "\u2028", "\x0b", "▁2", "0 1"]
    PieceTable(tokens).save(tmp_path)
    assert read_tokens(tmp_path / "tokens.txt") == tokens


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"tokens\.txt does not begin with '<blk> 0'"),
        ("a 0\nb 1\n", r"tokens\.txt does not begin with '<blk> 0'"),
        ("<blk> 0\na 2\n", r"tokens\.txt is not a list of tokens, each with its number"),
        ("<blk> 0\na 1\nb 1\n", "counted from 0"),
        ("<blk> 0\na\n", "counted from 0"),
        ("<blk> 1\na 2\n", "counted from 0"),
        ("\n\n", r"does not begin with '<blk> 0'"),
        (b"\xff\xfe\x00", "no UTF-8 text"),
        (b"\x08\x02\x12", "counted from 0"),
    ],
)
def test_another_file_is_no_list_of_tokens(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as problem:
        read_tokens(written(tmp_path, content))
    assert "\n" not in str(problem.value)


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokens\.txt does not exist; it comes with the model"):
        read_tokens(tmp_path / "tokens.txt")
