"""Prefix beam search, hotwords, and the n-gram model, on vocabularies so small that every alignment can be summed."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from layerdial.errors import UserError
from layerdial.request import Request
from layerdial.text.ctc import greedy_ctc
from layerdial.text.ctc_beams import CtcSearch, Pieces, Scoring
from layerdial.text.ctc_decoder import ctc_decoder
from layerdial.text.hotwords import hotwords_of, letters_of, read_hotwords
from layerdial.text.language_model import read_language_model
from layerdial.text.ngram import write_ngram
from layerdial.text.phrases import Phrases, unspellable
from layerdial.text.token_bias import TokenBias

LETTERS = Pieces(["<blk>", "▁", "a", "b"])


def random_logp(frames: int, seed: int, sharp: float = 1.0) -> NDArray[np.float32]:
    x = np.random.default_rng(seed).normal(size=(frames, 4)) * sharp
    return (x - np.log(np.exp(x).sum(axis=1, keepdims=True))).astype(np.float32)


def likeliest(logp_TV: NDArray[np.float32]) -> list[int]:
    """The labels whose alignments have the largest sum of probabilities, of all that there are."""
    total: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(logp_TV.shape[1]), repeat=len(logp_TV)):
        labels = tuple(greedy_ctc(path))
        p = math.exp(sum(float(logp_TV[t, v]) for t, v in enumerate(path)))
        total[labels] = total.get(labels, 0.0) + p
    return list(max(total, key=lambda labels: total[labels]))


@pytest.mark.parametrize("seed", range(10))
def test_a_beam_that_holds_all_finds_the_sum_over_alignments(seed: int) -> None:
    logp_TV = random_logp(6, seed)
    search = CtcSearch(Scoring(LETTERS), 10_000, least=0.0)
    search.feed(logp_TV[:2])  # as windows of long audio come
    search.feed(logp_TV[2:])
    assert search.finish() == likeliest(logp_TV)


def test_frames_that_are_sure_give_the_greedy_text() -> None:
    logp_TV = random_logp(200, 0, sharp=40.0)
    search = CtcSearch(Scoring(LETTERS), 8)
    search.feed(logp_TV)
    assert search.finish() == greedy_ctc(logp_TV.argmax(axis=1).tolist())


def found_with(hotwords: Any, logp_TV: NDArray[np.float32]) -> str:
    search = CtcSearch(Scoring(LETTERS, Phrases(hotwords_of(hotwords), 1.0)), 8)
    search.feed(logp_TV)
    return "".join(LETTERS.texts[token] for token in search.finish())


def close_call(p: float) -> NDArray[np.float32]:
    """Frames that say "aa" or "ab": the last letter is b with probability p."""
    rows = [[0.001, 0.001, 0.997, 0.001], [0.997, 0.001, 0.001, 0.001], [0.01, 0.01, 0.98 - p, p]]
    return np.log(np.array(rows, np.float32))


def test_a_hotword_that_is_acoustically_close_wins_and_one_that_is_not_does_not() -> None:
    assert found_with(["b"], close_call(0.3)) == "aa"
    assert found_with(["ab"], close_call(0.3)) == "ab"
    assert found_with(["ab"], close_call(0.01)) == "aa"


@pytest.mark.parametrize("seed", range(5))
def test_a_hotword_of_weight_zero_changes_nothing(seed: int) -> None:
    logp_TV = random_logp(30, seed)
    plain = CtcSearch(Scoring(LETTERS), 8)
    plain.feed(logp_TV)
    assert found_with({"ab": 0, "ba": 0}, logp_TV) == "".join(LETTERS.texts[token] for token in plain.finish())


@pytest.mark.parametrize(
    ("text", "bonus"),
    [
        ("new york", 8),
        ("In New-York, he", 8),
        ("new", 0),
        ("renew york", 0),
        ("new yorker", 0),
        ("york minster", 12),
        ("new york minster", 20),
        ("o'brien's", 7),
    ],
)
def test_only_whole_phrases_keep_their_bonus(text: str, bonus: float) -> None:
    phrases = Phrases(hotwords_of(["New York", "York Minster", "O'Brien"]), 1.0)
    state, change = phrases.step(phrases.start, letters_of(text))
    assert change + phrases.end(state) == pytest.approx(bonus)


def test_the_bonus_of_each_token_is_that_of_its_letters_one_by_one() -> None:
    tokens = [b" new", b"new", b" ", b" york", b"york", b"er", b",", b" New York", b"w y", b"", b" n", b"ew"]
    letters = [letters_of(token) for token in tokens]
    phrases = Phrases(hotwords_of({"new york": 1, "new": 2, "york minster": 1}), 0.5)
    bias = TokenBias(phrases, letters, end=len(tokens), n_tokens=len(tokens) + 2)
    for text in itertools.chain([()], itertools.product(range(len(tokens)), repeat=2)):
        state, bonus = bias.state(text)
        expected = [bias.state((*text, token))[1] - bonus for token in range(len(tokens))]
        np.testing.assert_allclose(bias.changes(text), [*expected, phrases.end(state), 0.0], atol=1e-6)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("Eyre\n\nJane\n", "line 2: the line is empty"),
        ("Eyre\tJane\n", "line 1: there is a tab"),
        ("Eyre :much\n", "line 1: the weight 'much' is no number"),
        ("Eyre :nan\n", "line 1: the weight of 'Eyre' is nan"),
        ("Eyre :-1\n", "line 1: the weight of 'Eyre' is -1.0"),
        ("Eyre\n!?\n", r"line 2: the hotword '!\?' has no letter"),
        ("Eyre\nEyre\n", "line 2: 'Eyre' stands there already"),
        ("", "is empty"),
    ],
)
def test_a_file_of_hotwords_that_makes_no_sense_is_refused(tmp_path: Path, lines: str, message: str) -> None:
    (tmp_path / "names.txt").write_text(lines)
    with pytest.raises(UserError, match=message) as problem:
        read_hotwords(tmp_path / "names.txt")
    assert "\n" not in str(problem.value)


def test_a_file_of_hotwords_has_weights(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("Jane Eyre :1.5\nThornfield\n")
    assert read_hotwords(tmp_path / "names.txt") == {"Jane Eyre": 1.5, "Thornfield": 1.0}
    with pytest.raises(UserError, match="does not exist"):
        read_hotwords(tmp_path / "none.txt")


@pytest.mark.parametrize("given", ["Eyre", 3, [3], {"Eyre": "much"}, {"Eyre": True}, {"Eyre": 11}], ids=str)
def test_hotwords_of_another_kind_are_refused(given: Any) -> None:
    with pytest.raises(UserError):
        hotwords_of(given)


def test_hotwords_that_the_tokens_cannot_spell_are_named() -> None:
    assert unspellable(hotwords_of(["ab ba", "abc", "b"]), LETTERS.letters) == ["abc"]
    with pytest.raises(UserError, match="tokens of this model cannot spell the hotwords 'abc'"):
        ctc_decoder(Request(hotwords=["ab", "abc"]), LETTERS, "this model")


def test_a_search_within_a_deadline_is_refused_and_without_a_wish_there_is_none() -> None:
    with pytest.raises(UserError, match="hotwords and deadline_ms exclude each other"):
        ctc_decoder(Request(deadline_ms=5, hotwords=["ab"]), LETTERS, "m")
    assert ctc_decoder(Request(beams=1), LETTERS, "m") is None


# ------------------------------------------------------------------------------------------------ n-gram models

TEXTS = ["the cat sat on the mat", "the dog sat", "a cat ran", "the mat ran on"] * 2


@pytest.mark.parametrize("order", [2, 3, 4])
def test_the_probabilities_of_an_ngram_sum_to_one(tmp_path: Path, order: int) -> None:
    kenlm = pytest.importorskip("kenlm")
    write_ngram(TEXTS, tmp_path / "lm.arpa", order)
    lm = read_language_model(tmp_path / "lm.arpa")
    assert lm.order == order
    for words in ([], ["the"], ["the", "cat"], ["sat", "on"], ["ran", "never"]):
        state = lm.start()
        for word in words:
            state, _ = lm.word(state, word)
        scores = [lm._model.BaseScore(state, word, kenlm.State()) for word in (*lm.words, "</s>", "<unk>")]
        assert sum(10**score for score in scores) == pytest.approx(1.0, abs=1e-4)


def test_a_language_model_decides_between_words_that_sound_alike(tmp_path: Path) -> None:
    pytest.importorskip("kenlm")
    write_ngram(["ab", "ab ba"], tmp_path / "lm.arpa", 2)
    for weight, text in ((0.0, "aa"), (1.0, "ab")):
        request = Request(lm=str(tmp_path / "lm.arpa"), lm_weight=weight, word_bonus=0.0)
        decoder = ctc_decoder(request, LETTERS, "m")
        assert decoder is not None
        search = decoder.begin()
        search.feed(close_call(0.3))
        assert "".join(LETTERS.texts[token] for token in search.finish()) == text


BINARIES = Path(__file__).parents[1] / "golden"  # of TEXTS as a 2-gram, by KenLM's build_binary


@pytest.mark.parametrize("kind", ["probing", "trie"])
def test_a_binary_of_kenlm_scores_as_the_arpa_it_was_built_from(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("kenlm")
    write_ngram(TEXTS, tmp_path / "lm.arpa", 2)
    arpa, binary = (read_language_model(file) for file in (tmp_path / "lm.arpa", BINARIES / f"words-{kind}.kenlm"))
    assert set(binary.words) == set(arpa.words)
    for words in (["the", "cat", "sat"], ["never", "a"], []):
        scores = []
        for lm in (arpa, binary):
            state, total = lm.start(), 0.0
            for word in words:
                state, logp = lm.word(state, word)
                total += logp
            scores.append(total + lm.end(state))
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_no_part_of_a_language_model_is_taken_for_it(tmp_path: Path) -> None:
    pytest.importorskip("kenlm")
    write_ngram(TEXTS, tmp_path / "lm.arpa", 3)
    whole, file = (tmp_path / "lm.arpa").read_bytes(), tmp_path / "part.arpa"
    for size in range(0, len(whole) - len("\\end\\") - 1, len(whole) // 23):
        file.write_bytes(whole[:size])
        with pytest.raises(UserError, match="cannot be used as a language model") as problem:
            read_language_model(file)
        assert "\n" not in str(problem.value)
    for kind in ("probing", "trie"):
        file.write_bytes((BINARIES / f"words-{kind}.kenlm").read_bytes()[:500])
        with pytest.raises(UserError, match="the headers say it should be at least"):
            read_language_model(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"mmap lm http://kheafield.com/code format version 4\n\0" + bytes(100), "expects version 5"),
        (bytes(range(256)) * 8, "neither ARPA, which"),
        (b"\x1f\x8b\x08" + bytes(100), "unpack it with gunzip"),
        (b"", "End of file"),
    ],
    ids=["older", "other", "gzip", "empty"],
)
def test_a_binary_of_another_kind_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    pytest.importorskip("kenlm")
    (tmp_path / "lm.bin").write_bytes(content)
    with pytest.raises(UserError, match=message) as problem:
        read_language_model(tmp_path / "lm.bin")
    assert "\n" not in str(problem.value)
    with pytest.raises(UserError, match="is no file"):
        read_language_model(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hello\n", "neither ARPA, which begins with .*, nor KenLM's binary"),
        (
            "\\data\\\n" + "".join(f"ngram {i}=1\n" for i in range(1, 10)) + "\n\\1-grams:\n-1 <unk>\n",
            "order is above 6",
        ),
        ("\\data\\\nngram 1=9\n\n\\1-grams:\n-1\t<unk>\n", "cannot be used as a language model"),
    ],
    ids=["text", "order 9", "cut"],
)
def test_what_is_no_language_model_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    pytest.importorskip("kenlm")
    (tmp_path / "lm.arpa").write_text(content)
    with pytest.raises(UserError, match=message) as problem:
        read_language_model(tmp_path / "lm.arpa")
    assert "\n" not in str(problem.value)


def test_a_language_model_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("kenlm")
    write_ngram(TEXTS, tmp_path / "lm.arpa", 2)
    with pytest.raises(UserError, match="is of another vocabulary"):
        ctc_decoder(Request(lm=str(tmp_path / "lm.arpa")), LETTERS, "m")
    with pytest.raises(UserError, match="it has not 1 of the 1 words of m"):
        ctc_decoder(Request(lm=str(tmp_path / "lm.arpa")), Pieces(["<blk>", "▁zwei"]), "m")
