"""Words of byte-level tokens: what stands between spaces, with the times and the confidence of its letters."""

from __future__ import annotations

import math

import numpy as np
import pytest

from layerdial.text.byte_level import ByteTable, _alphabet
from layerdial.text.token_rules import SpokenToken, among_all, log_softmax
from layerdial.text.token_words import whole_words, words_of
from layerdial.transcript import Word

_LETTER = {byte[0]: letter for letter, byte in _alphabet().items()}


def made_of(*tokens: str | bytes, logp: float = -0.5) -> list[Word]:
    """Return the words of a text, of which each token takes a second."""
    raw = [token.encode() if isinstance(token, str) else token for token in tokens]
    table = ByteTable(["".join(_LETTER[byte] for byte in one) for one in raw], len(raw))
    spoken = [SpokenToken(i, i + 1.0, logp) for i in range(len(raw))]
    return words_of(table, range(len(raw)), spoken)


def spans(words: list[Word]) -> list[tuple[str, float, float]]:
    return [(word.text, word.start, word.end) for word in words]


def test_tokens_are_joined_up_to_the_next_space() -> None:
    assert spans(made_of(" He", "llo", " wor", "ld")) == [("Hello", 0, 2), ("world", 2, 4)]
    assert spans(made_of(" state", "-", "of", " it", "'s")) == [("state-of", 0, 3), ("it's", 3, 5)]


def test_punctuation_is_written_with_its_word_and_takes_no_time() -> None:
    assert spans(made_of(" Hello", ",", " world", "...")) == [("Hello,", 0, 1), ("world...", 2, 3)]
    assert spans(made_of(' "', "Yes", '"', " he")) == [('"Yes"', 1, 2), ("he", 3, 4)]


def test_punctuation_that_stands_alone_is_joined_to_its_neighbour() -> None:
    assert spans(made_of(" a", " —", " b")) == [("a —", 0, 1), ("b", 2, 3)]
    assert spans(made_of(" -", " yes")) == [("- yes", 1, 2)]
    assert spans(made_of(" a", " (", " b", " )")) == [("a", 0, 1), ("( b )", 2, 3)]
    assert spans(made_of(" a", " (")) == [("a (", 0, 1)]
    assert spans(made_of(" ...")) == [("...", 0, 1)]
    assert made_of() == made_of(" ") == []


def test_where_no_spaces_are_written_each_token_is_a_word() -> None:
    assert spans(made_of("今天", "天", "气", "，", "我")) == [  # noqa: RUF001
        ("今天", 0, 1),
        ("天", 1, 2),
        ("气，", 2, 3),  # noqa: RUF001
        ("我", 4, 5),
    ]
    assert spans(made_of("「", "は", "い", "」", "と")) == [("「は", 1, 2), ("い」", 2, 3), ("と", 4, 5)]
    assert spans(made_of("用", "Py", "thon", "写")) == [("用", 0, 1), ("Python", 1, 3), ("写", 3, 4)]
    assert spans(made_of("ก", "ำ", "ที", "่")) == [("ก", 0, 1), ("ำ", 1, 2), ("ที่", 2, 4)]


def test_a_character_of_several_tokens_is_not_cut() -> None:
    first, second, third = "気".encode()
    assert spans(made_of(bytes([first]), bytes([second]), bytes([third]), "を")) == [("気", 0, 3), ("を", 3, 4)]
    assert spans(made_of(" a", bytes([first]))) == [("a\ufffd", 0, 1)]


@pytest.mark.parametrize("seed", range(30))
def test_whatever_the_tokens_words_are_the_text_in_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    some = [" a", "b", " ", "-", ".", "気", "、", "é", *(bytes([byte]) for byte in "気é".encode()), " (", "🙂", "่"]
    tokens = [some[i] for i in rng.integers(0, len(some), 12)]
    words = made_of(*tokens)
    raw = b"".join(token.encode() if isinstance(token, str) else token for token in tokens)
    text = raw.decode("utf-8", errors="replace")
    assert "".join("".join(word.text.split()) for word in words) == "".join(text.split())
    assert all(word.text == " ".join(word.text.split()) for word in words)
    starts = [word.start for word in words]
    assert starts == sorted(starts) and all(word.start < word.end for word in words)


def test_the_confidence_is_the_geometric_mean_of_the_probabilities_of_the_letters() -> None:
    table = ByteTable(["Ġa", "b", ","], 3)
    spoken = [SpokenToken(0, 1, math.log(0.9)), SpokenToken(1, 2, math.log(0.4)), SpokenToken(2, 3, math.log(0.01))]
    (word,) = words_of(table, [0, 1, 2], spoken)
    assert word.confidence == pytest.approx(0.6)
    (sure,) = words_of(table, [0], [SpokenToken(0, 1, 1e-9)])  # a rounding error above one
    assert sure.confidence == 1.0


def test_a_probability_counts_the_tokens_that_may_not_be_written() -> None:
    logits = np.array([1.0, 2.0, 3.0, 0.5], np.float32)
    allowed = log_softmax(np.array([1.0, 2.0, -np.inf, 0.5], np.float32))
    assert among_all(1, logits, allowed) == pytest.approx(float(log_softmax(logits)[1]), abs=1e-6)
    everything = log_softmax(logits)
    assert among_all(2, logits, everything) == pytest.approx(float(everything[2]), abs=1e-6)


@pytest.mark.parametrize(
    ("texts", "count"),
    [
        ([], 0),
        ([" the"], 0),
        (["t", "h", "e"], 0),
        (["t", "h", "e", " "], 4),
        (["t", "h", "e", " ", "d"], 4),
        ([" the", " do", "g"], 1),
        ([" the", " dog", " "], 3),
        (["漢", "字"], 1),  # each is a word
        ([" a", "漢"], 1),
    ],
)
def test_only_the_last_word_can_become_longer(texts: list[str], count: int) -> None:
    assert whole_words(texts) == count
