"""Tokenizers: texts go to labels and back, also from disk, and what one does not know is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerdial.errors import UserError
from layerdial.text.tokenizer import build_tokenizer, load_tokenizer

LINES = [
    "the quick brown fox jumps over the lazy dog",
    "don't stop at 7 o'clock",
    "a stitch in time saves nine",
    "five quacking zephyrs jolt my wax bed",
] * 5


@pytest.mark.parametrize(("kind", "size"), [("word", None), ("char", None), ("bpe", 48)])
def test_tokens_go_back_to_their_text_also_from_disk(kind, size: int | None, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(kind, LINES, size)
    tokenizer.save(tmp_path)
    stored = load_tokenizer(tmp_path)
    assert (stored.kind, stored.tokens) == (kind, tokenizer.tokens)
    for line in LINES:
        ids = tokenizer.encode(line)
        assert 0 not in ids and max(ids) < len(tokenizer.tokens)
        assert tokenizer.decode(ids) == stored.decode(stored.encode(line)) == line
    assert tokenizer.tokens[0] == "<blk>" and (size is None or len(tokenizer.tokens) == size)
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("kind", ["word", "char"])
def test_words_of_one_letter_do_not_confuse_the_kind(kind, tmp_path: Path) -> None:
    build_tokenizer(kind, ["a b", "b c a"]).save(tmp_path)
    stored = load_tokenizer(tmp_path)
    assert stored.kind == kind
    assert stored.decode(stored.encode("c a b")) == "c a b"


def test_a_char_tokenizer_of_single_words_is_still_one(tmp_path: Path) -> None:
    build_tokenizer("char", ["yes", "no"]).save(tmp_path)
    stored = load_tokenizer(tmp_path)
    assert stored.kind == "char" and stored.decode(stored.encode("nose")) == "nose"


def test_building_a_tokenizer_twice_gives_the_same() -> None:
    for kind, size in (("word", None), ("char", None), ("bpe", 48)):
        assert build_tokenizer(kind, LINES, size).tokens == build_tokenizer(kind, reversed(LINES), size).tokens


@pytest.mark.parametrize(
    ("kind", "size", "text", "message"),
    [
        ("word", None, "the slow fox", "no word 'slow'"),
        ("char", None, "fox #", "no char '#'"),
        ("bpe", 48, "fox é", "no piece"),
    ],
)
def test_what_a_tokenizer_does_not_know_is_named(kind, size: int | None, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_tokenizer(kind, LINES, size).encode(text)


def test_an_impossible_bpe_size_is_one_line() -> None:
    for size in (5, 5000):
        with pytest.raises(UserError, match=f"BPE of {size} tokens cannot") as problem:
            build_tokenizer("bpe", LINES, size)
        assert "\n" not in str(problem.value)
    with pytest.raises(UserError, match=r"tokenizer\.size is missing"):
        build_tokenizer("bpe", LINES)


def test_a_folder_without_tokens_or_with_others_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokens\.txt"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokens.txt").write_text("a 0\nb 1\n")
    with pytest.raises(UserError, match="does not begin with '<blk> 0'"):
        load_tokenizer(tmp_path)
    (tmp_path / "bpe.model").write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"bpe\.model"):
        load_tokenizer(tmp_path)
