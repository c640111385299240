from __future__ import annotations

import itertools
from pathlib import Path
from random import Random

import pytest
import torch

from layerdial.errors import UserError
from layerdial.text.ctc import ctc_frames_needed, greedy_ctc
from layerdial.text.normalise import normalise
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


@pytest.mark.parametrize(
    ("frames", "labels"),
    [
        ([], []),
        ([0, 0, 0], []),
        ([1], [1]),
        ([1, 1, 1], [1]),
        ([1, 0, 1], [1, 1]),
        ([0, 3, 3, 0, 0, 3, 2, 2, 1, 0], [3, 3, 2, 1]),
    ],
)
def test_greedy_ctc_merges_repeats_then_drops_blanks(frames: list[int], labels: list[int]) -> None:
    assert greedy_ctc(frames) == labels


def test_greedy_ctc_undoes_any_alignment() -> None:
    random = Random(0)
    for _ in range(200):
        labels = random.choices([1, 2, 3], k=random.randint(0, 6))
        frames: list[int] = [0] * random.randint(0, 2)
        for before, label in zip([None, *labels], labels, strict=False):
            frames += [0] * random.randint(int(before == label), 2) + [label] * random.randint(1, 3)
        assert greedy_ctc(frames) == labels


def test_ctc_is_finite_exactly_from_the_frames_needed_on() -> None:
    for labels in itertools.product([1, 2], repeat=3):
        for n_frames in range(1, 8):
            logp = torch.zeros(n_frames, 1, 3).log_softmax(-1)
            loss = torch.nn.functional.ctc_loss(logp, torch.tensor([labels]), [n_frames], [3], reduction="none")
            assert bool(loss.isfinite()) == (n_frames >= ctc_frames_needed(labels))


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Author of the danger trail, Philip Steels, etc.", "author of the danger trail philip steels etc"),
        ("It\u2019s  9\u201410 o'clock!", "it's 9 10 o'clock"),
        ("CAFÉ naïve", "cafe naive"),
        ("yes\u2014no \u201csaid\u201d", "yes no said"),
        ("well-known\tand\nnew", "well known and new"),
        ("' '' quoted '", "quoted"),
        ("\u3053\u3093 ...", ""),
        ("", ""),
        # notes of a transcriber
        ("[noise] hello <unk> there (laughs)", "hello there"),
        ("{breath} well [noise [loud]] yes <s> </s> [PAD]", "well yes"),
        ("\uff3bnoise\uff3d hello \uff08laughs\uff09", "hello"),
        ("3 < 4 and 5 > 2, a [ b", "3 4 and 5 2 a b"),
        ("[" + "word " * 30 + "] end", "word " * 30 + "end"),
        # apostrophes by other names
        *((f"I don{sign}t", "i don't") for sign in "'\u02bc\u2018\u2019\u00b4\u2032`\u201b\uff07\u02b9\ua78c\u055a"),
        # quotation marks, and apostrophes that are none
        ("he said 'go away' to 'them'", "he said go away to them"),
        ("\u2018Hello,\u2019 he said, \u2018I don\u2019t.\u2019", "hello he said i don't"),
        ("\u201aHallo\u2018 \u2039x\u203a ``y'' \u201ez\u201c", "hallo x y z"),
        ("'A quote that goes on", "a quote that goes on"),
        ("and ends here.' Yes", "and ends here yes"),
        ("'cause the dogs' bone, 'tis rock 'n' roll o' the '90s, goin' on", None),
        # signs that nobody sees
        ("so\u00adft ze\u200bro no\u200dw a\u2060b \ufeffend \u202aleft\u202c", "soft zero now ab end left"),
    ],
)
def test_normalised_text_holds_letters_digits_apostrophes_and_single_spaces(text: str, plain: str | None) -> None:
    plain = text.replace(",", "") if plain is None else plain  # as it is
    assert normalise(text) == plain
    assert normalise(plain) == plain


def test_normalising_twice_changes_nothing() -> None:
    random = Random(0)
    for _ in range(20_000):
        text = "".join(random.choices("ab'' \u2019[]()<>{}.sn1\u00ad", k=random.randint(0, 14)))
        once = normalise(text)
        assert normalise(once) == once, text
