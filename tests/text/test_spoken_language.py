"""Speech that sounds like another language than it is recognised as: what a decoder tells, and what is said of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from layerdial.recognition.pieces import PieceResult
from layerdial.runtime.commands import language_note, row_of
from layerdial.subset import BlockSubset
from layerdial.text.prompt import DecoderUse
from layerdial.text.spoken_language import UNKNOWN, Languages
from layerdial.text.token_rules import Written
from layerdial.transcript import Chunk, Transcript

TOKENS = ["a", "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|haw|>", "<|translate|>"]
TOKENS += ["<|transcribe|>", "<|notimestamps|>"]
FULL, START, EN, DE = BlockSubset.full(2), 2, 3, 4
HALF = BlockSubset.prefix(2, 1)
LANGUAGES = Languages.of(TOKENS)
OF_ENGLISH_ALONE = DecoderUse((START, 8), FULL)


def heard(prompt: tuple[int, ...], *logits: float) -> str | None:
    """What logits of the three languages tell; all other tokens are likelier."""
    logits_V = np.full(len(TOKENS), 9.0, np.float32)
    logits_V[list(LANGUAGES.tokens)] = logits
    return LANGUAGES.other(logits_V, DecoderUse(prompt, FULL))


def test_a_multilingual_decoder_tells_a_language_that_is_likelier_than_all_others_together() -> None:
    assert LANGUAGES.codes == ("en", "de", "haw") and Languages.of(["a", "b"]) == Languages((), ())
    assert heard((START, EN, 7, 8), 0.0, 2.0, 1.0) == "de" and heard((START, DE, 7, 8), 0.0, 2.0, 1.0) == ""
    assert heard((START, EN, 7, 8), 0.0, 0.5, 0.5) == ""


def test_one_of_english_alone_cannot_tell_although_its_vocabulary_has_languages() -> None:
    logits_V = np.zeros(len(TOKENS), np.float32)
    assert LANGUAGES.other(logits_V, OF_ENGLISH_ALONE) is None
    assert LANGUAGES.other(logits_V, DecoderUse((START, 8), HALF)) == ""  # with fewer blocks it is unsure of anything


def mark(written: Written, subset: BlockSubset = FULL) -> str:
    return PieceResult(written, Chunk(0.0, 5.0, subset)).marked.language


def test_english_alone_is_doubted_where_all_blocks_are_unsure_of_a_long_enough_text() -> None:
    unsure = Written(list(range(9)), math.log(0.4), 0.0, False)
    assert mark(unsure) == UNKNOWN and mark(unsure, HALF) == ""
    assert mark(Written(list(range(9)), math.log(0.6), 0.0, False)) == mark(Written([1, 2], -9.0, 0.0, False)) == ""
    assert mark(Written(list(range(9)), -2.0, 0.9, False)) == ""  # nobody speaks
    assert mark(Written([1], -0.1, 0.0, False, language="de")) == "de"


@pytest.mark.parametrize(
    ("languages", "told", "note"),
    [
        (["", "de", "de"], "de", "this sounds like another language, de; give --language de"),
        ([UNKNOWN], UNKNOWN, "the model is for English; this does not sound like it, or is hard to hear"),
        (["", "", "de"], "", ""),
        ([], "", ""),
    ],
)
def test_a_recording_is_of_the_language_of_most_of_it(languages: list[str], told: str, note: str) -> None:
    chunks = tuple(Chunk(9.0 * i, 9.0 * (i + 1), FULL, language=name) for i, name in enumerate(languages))
    transcript = Transcript("text", FULL, 9.0, 0.1, chunks=chunks)
    assert (transcript.other_language, language_note(transcript)) == (told, note)
    assert row_of(transcript).get("other_language", "") == told
