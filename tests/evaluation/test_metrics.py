"""Error counts agree with counting by hand and with jiwer; intervals behave as intervals must."""

from __future__ import annotations

import math
import random

import jiwer
import numpy as np
import pytest

from layerdial.errors import UserError
from layerdial.evaluation.metrics import ErrorCounts, bootstrap_interval, count_errors, paired_change, score, total


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("one two three", "one two three", ErrorCounts(hits=3)),
        ("one two three", "one too three", ErrorCounts(hits=2, substitutions=1)),
        ("one two three", "one three", ErrorCounts(hits=2, deletions=1)),
        ("one two three", "one two two three", ErrorCounts(hits=3, insertions=1)),
        ("one two three", "four five six seven", ErrorCounts(substitutions=3, insertions=1)),
        ("one two three", "", ErrorCounts(deletions=3)),
        ("", "one two", ErrorCounts(insertions=2)),
        ("", "", ErrorCounts()),
        ("  one   two ", "one two", ErrorCounts(hits=2)),
    ],
)
def test_word_counts_by_hand(reference: str, hypothesis: str, expected: ErrorCounts) -> None:
    assert count_errors(reference, hypothesis) == expected


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("abc", "abd", ErrorCounts(hits=2, substitutions=1)),
        ("a b", "ab", ErrorCounts(hits=2, deletions=1)),
        ("a b", "", ErrorCounts(deletions=3)),
        ("", "a b", ErrorCounts(insertions=3)),
    ],
)
def test_character_counts_by_hand(reference: str, hypothesis: str, expected: ErrorCounts) -> None:
    assert count_errors(reference, hypothesis, "char") == expected


def test_corpus_counts_equal_jiwer_on_random_texts() -> None:
    rng = random.Random(0)
    references = [" ".join(rng.choices("abcde", k=rng.randint(1, 12))) for _ in range(200)]
    hypotheses = [" ".join(rng.choices("abcde", k=rng.randint(1, 12))) for _ in range(200)]
    words = total(score(zip(references, hypotheses, strict=True)))
    expected = jiwer.process_words(references, hypotheses)
    assert (words.hits, words.substitutions) == (expected.hits, expected.substitutions)
    assert (words.deletions, words.insertions) == (expected.deletions, expected.insertions)
    assert words.rate == pytest.approx(jiwer.wer(references, hypotheses))
    characters = total(score(zip(references, hypotheses, strict=True), "char"))
    assert characters.rate == pytest.approx(jiwer.cer(references, hypotheses))


def test_empty_and_one_letter_hypotheses_stay_in_the_corpus() -> None:
    corpus = total(score([("one two", "one two"), ("three four five", ""), ("six", "a"), ("", "seven")]))
    assert corpus == ErrorCounts(hits=2, substitutions=1, deletions=3, insertions=1)
    assert (corpus.errors, corpus.words, corpus.rate) == (5, 6, 5 / 6)


def test_rate_without_reference_words() -> None:
    assert math.isnan(ErrorCounts().rate)  # nothing scored is not nothing wrong
    assert ErrorCounts(insertions=1).rate == math.inf


def test_unknown_unit_is_refused() -> None:
    with pytest.raises(UserError, match="'word' or 'char', found 'phone'"):
        count_errors("a", "a", "phone")  # type: ignore[arg-type]


def test_interval_holds_the_rate_and_shrinks_with_the_corpus() -> None:
    rng = np.random.default_rng(1)
    words = rng.integers(5, 20, 2000)
    errors = rng.binomial(words, 0.1)
    widths = []
    for size in (100, 2000):
        low, high = bootstrap_interval(errors[:size].tolist(), words[:size].tolist())
        assert low < errors[:size].sum() / words[:size].sum() < high
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(math.sqrt(2000 / 100), rel=0.25)


def test_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for corpus in range(200):
        words = rng.integers(5, 20, 200)
        errors = rng.binomial(words, 0.2)
        low, high = bootstrap_interval(errors.tolist(), words.tolist(), samples=400, seed=corpus)
        covered += low <= 0.2 <= high
    assert 180 <= covered <= 199


def test_interval_is_the_same_for_the_same_seed_and_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, words = list(range(50)), [60] * 50
    whole = bootstrap_interval(errors, words)
    assert whole == bootstrap_interval(errors, words)
    assert whole != bootstrap_interval(errors, words, seed=1)
    monkeypatch.setattr("layerdial.evaluation.metrics._DRAWS_AT_ONCE", 7 * 50)
    assert whole == bootstrap_interval(errors, words)


def test_interval_of_equal_utterances_is_a_point() -> None:
    assert bootstrap_interval([1] * 10, [4] * 10) == (0.25, 0.25)


def test_interval_without_reference_words_is_undefined() -> None:
    assert all(math.isnan(end) for end in bootstrap_interval([1, 0], [0, 0]))


def test_pairing_sees_a_small_but_steady_gain() -> None:
    rng = np.random.default_rng(3)
    words = rng.integers(10, 30, 500)
    errors_a = rng.binomial(words, rng.beta(1, 4, 500))  # utterances differ a lot in difficulty
    errors_b = rng.binomial(errors_a, 0.93)  # each of a's errors is mended with probability 0.07
    change = paired_change(errors_a.tolist(), words.tolist(), errors_b.tolist())
    assert change.low < change.relative < change.high < 0
    assert change.is_clear
    assert change.relative == pytest.approx(errors_b.sum() / errors_a.sum() - 1)
    low_a, _ = bootstrap_interval(errors_a.tolist(), words.tolist())
    _, high_b = bootstrap_interval(errors_b.tolist(), words.tolist())
    assert high_b > low_a, "separate intervals overlap, and hide it"


def test_change_between_equal_results_is_nothing() -> None:
    change = paired_change([1, 0, 2], [3, 3, 3], [1, 0, 2])
    assert (change.relative, change.low, change.high, change.is_clear) == (0.0, 0.0, 0.0, False)


def test_change_against_an_errorless_baseline_is_infinite() -> None:
    assert paired_change([0, 0], [3, 3], [1, 1]).relative == math.inf
    assert paired_change([0, 0], [3, 3], [0, 0]).relative == 0.0


def test_bootstrap_refuses_other_utterances() -> None:
    with pytest.raises(UserError, match="found 2 and 3"):
        paired_change([1, 2], [3, 3, 3], [1, 2, 3])
    with pytest.raises(UserError, match="at least one utterance"):
        bootstrap_interval([], [])
