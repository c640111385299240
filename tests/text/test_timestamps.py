"""Timestamps in a text: what may follow what, as transformers has OpenAI's rules, and which segments come of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

from layerdial.errors import UserError
from layerdial.request import Request
from layerdial.subset import BlockSubset
from layerdial.text.prompt import DecoderUse, _warn_of_timestamps
from layerdial.text.timestamps import Stamps, TimedTokens
from layerdial.text.token_rules import TokenRules

LETTERS, END, START, NOTHING = 6, 6, 7, 8
FIRST = 9  # the token of 0.00; those of 30 s follow
TOKENS = [*"abcdef", "<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
TOKENS += [f"<|{0.02 * i:.2f}|>" for i in range(1501)]
STAMPS = Stamps(FIRST, FIRST + 1500)


def rules(seconds: float = 30.0) -> TokenRules:
    return TokenRules.of((), (), TOKENS, END).with_stamps(STAMPS, seconds)


def at(seconds: float) -> int:
    """The token of a time."""
    return FIRST + round(seconds / 0.02)


def logits(**likely: float) -> Any:
    """Logits that find all tokens as likely, but for those named (`a`, `end`, ...)."""
    found = np.zeros((1, len(TOKENS)), np.float32)
    for name, value in likely.items():
        found[0, END if name == "end" else TOKENS.index(name)] = value
    return found


def allowed(text: Sequence[int], seconds: float = 30.0, **likely: float) -> set[int]:
    """The tokens that may follow; without `likely` letters are likelier than all timestamps together."""
    likely = likely or dict.fromkeys((*"abcdef", "end"), 20.0)
    return set(np.flatnonzero(np.isfinite(rules(seconds).log_probs(logits(**likely), [text])[0])).tolist())


def stamps(start: float, end: float = 30.0) -> set[int]:
    return set(range(at(start), at(end) + 1))


WORDS = set(range(LETTERS))


# ------------------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize("seed", range(300))
def test_what_may_follow_is_what_transformers_allows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    settings = SimpleNamespace(no_timestamps_token_id=NOTHING, eos_token_id=END, bos_token_id=END)
    settings.max_initial_timestamp_index = 50
    theirs = WhisperTimeStampLogitsProcessor(settings, begin_index=1)  # type: ignore[arg-type]
    kinds = rng.integers(0, 2, rng.integers(0, 6))
    text = [int(rng.integers(FIRST, FIRST + 1400) if kind else rng.integers(0, LETTERS)) for kind in kinds]
    scores = rng.normal(0.0, 3.0, (1, len(TOKENS))).astype(np.float32)
    scores[0, :END] += rng.choice([0.0, 6.0, 9.0])
    scores[0, START] = -np.inf  # which the checkpoint suppresses
    expected = theirs(torch.tensor([[START, *text]]), torch.from_numpy(scores)).log_softmax(dim=-1).numpy()
    found = rules().log_probs(scores, [text])
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_text_begins_with_a_timestamp_of_its_first_second() -> None:
    assert allowed([]) == stamps(0.0, 1.0)


def test_a_text_follows_what_opens_and_a_timestamp_or_the_end_what_closes() -> None:
    assert allowed([at(0.5)]) == WORDS | {END}
    assert allowed([at(0.5), 1, at(2.0)]) == stamps(2.0) | {END}
    assert allowed([at(0.5), 1, at(2.0), at(2.2)]) == WORDS | {END}


def test_no_timestamp_falls_and_no_segment_has_no_length() -> None:
    assert allowed([at(0.5), 1]) == WORDS | {END} | stamps(0.52)
    assert allowed([at(0.5), 1, at(2.0), at(2.2), 3]) == WORDS | {END} | stamps(2.22)


def test_no_timestamp_lies_behind_the_audio() -> None:
    assert allowed([at(0.5), 1], seconds=3.0) == WORDS | {END} | stamps(0.52, 3.0)
    assert allowed([at(0.5), 1], seconds=3.01) == WORDS | {END} | stamps(0.52, 3.02)
    assert allowed([], seconds=0.3) == stamps(0.0, 0.3)
    assert allowed([at(2.0)], seconds=2.0) == WORDS | {END}
    assert allowed([at(2.0), 1], seconds=2.0) == WORDS | {END}  # it cannot be closed, but it can end


def test_timestamps_that_are_likelier_together_than_any_word_are_written() -> None:
    one_of_many = math.log(1000)  # as likely as a thousand timestamps
    assert allowed([at(0.5), 1], a=one_of_many) == stamps(0.52)
    assert allowed([at(0.5), 1], a=one_of_many + 1.0) > WORDS


def test_without_timestamps_none_is_written() -> None:
    plain = TokenRules.of((), (), TOKENS, END)
    assert plain.with_stamps(None, 3.0) is plain
    assert set(np.flatnonzero(np.isfinite(plain.log_probs(logits(), [[]])[0]))) == WORDS | {END}


def test_a_loop_is_found_whatever_timestamps_are_in_it() -> None:
    text = [at(0.0), 1, 2, 3, at(1.0), at(1.0), 2, 3, at(2.0), at(2.0), 2, 3, at(3.0), at(3.0), 2, 3]
    phrase = rules().loop_in(text)
    assert phrase == [2, 3]
    assert rules().without_loop(text, phrase) == [at(0.0), 1, 2, 3, at(1.0), at(1.0)]
    assert rules().loop_in(text[:-1]) is None


# ---------------------------------------------------------------------------------------------------------- segments


def test_a_text_between_two_timestamps_is_a_segment() -> None:
    text = [at(0.5), 1, 2, at(2.0), at(2.2), 3, at(4.0)]
    assert STAMPS.segments(text) == [TimedTokens(0.5, 2.0, [1, 2], 1), TimedTokens(2.2, 4.0, [3], 5)]


def test_a_text_that_breaks_off_has_no_end() -> None:
    assert STAMPS.segments([at(0.5), 1, at(2.0), at(2.0), 3]) == [
        TimedTokens(0.5, 2.0, [1], 1),
        TimedTokens(2.0, None, [3], 4),
    ]
    assert STAMPS.segments([1, 2]) == [TimedTokens(0.0, None, [1, 2])]


def test_timestamps_without_text_are_no_segment() -> None:
    assert STAMPS.segments([at(0.0)]) == STAMPS.segments([]) == []


# ----------------------------------------------------------------------------------------------------------- request


def test_timestamps_of_a_vocabulary_are_found_by_their_names() -> None:
    assert Stamps.of(TOKENS) == STAMPS
    assert Stamps.of([*TOKENS[: FIRST + 26], "<|unused0|>", "<|0.52|>"]) == Stamps(FIRST, FIRST + 25)
    assert Stamps.of(TOKENS[:FIRST]) is None


def test_a_request_for_timestamps_leaves_the_token_against_them_out_of_the_prompt() -> None:
    use = DecoderUse((START, NOTHING), BlockSubset.full(2))
    timed = use.for_request(Request(timestamps=True), TOKENS, trained_here=False)
    assert timed == DecoderUse((START,), BlockSubset.full(2), STAMPS)
    for plain in (Request(), Request(timestamps=False)):
        assert use.for_request(plain, TOKENS, trained_here=False) == use
    with pytest.raises(UserError, match=r"the model's vocabulary has none \(no <\|0.00\|>\)"):
        use.for_request(Request(timestamps=True), TOKENS[:FIRST], trained_here=False)


def test_a_request_for_timestamps_is_not_one_for_a_deadline() -> None:
    with pytest.raises(UserError, match="timestamps and deadline_ms exclude each other"):
        Request(timestamps=True, deadline_ms=100)


def test_timestamps_of_a_model_that_was_trained_without_them_get_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    _warn_of_timestamps.cache_clear()
    use = DecoderUse((START, NOTHING), BlockSubset.full(2))
    use.for_request(Request(), TOKENS, trained_here=True)
    use.for_request(Request(timestamps=True), TOKENS, trained_here=False)
    assert not caplog.records
    for _ in range(2):
        use.for_request(Request(timestamps=True), TOKENS, trained_here=True)
    assert [record.getMessage() for record in caplog.records] == [
        "timestamps may be wrong: this model was trained on texts without them; times of words are measured"
    ]
