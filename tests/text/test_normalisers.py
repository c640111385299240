"""The normal forms in which words are counted: by name, and Whisper's as transformers has it."""

from __future__ import annotations

import json
import sys
from importlib.resources import files

import pytest
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from layerdial.errors import UserError
from layerdial.text.normalise import normalise
from layerdial.text.normalisers import normalizer_of, whisper_english

TEXTS = [
    "Mr. Quilter's colour, um, won twenty-two prizes",
    "Chapter 7. Our Virtues?",
    "chapter seven our virtues",
    "It won't be one hundred and one; they've gone. I'd say she's right!",
    "She paid £20.50 and $3 million [laughs] (sighs) in 1860, the 20th time",
    "the dogs' bone, 'tis o'clock goin' mhm",
    "Café naïve — Größe",
    "double o seven, nine nine nine, three point five percent",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_english_form_is_that_of_transformers(text: str) -> None:
    spelling = json.loads((files("whisper_normalizer") / "normalizers/english.json").read_text())
    assert whisper_english(text) == EnglishTextNormalizer(spelling)(text)


def test_what_the_english_form_does_not_count_as_an_error() -> None:
    for text, other in (
        ("chapter seven", "Chapter 7."),
        ("mister quilter", "Mr. Quilter"),
        ("colour", "color"),
        ("i am not", "I'm not"),
        ("um well", "Well"),
    ):
        assert whisper_english(text) == whisper_english(other) and normalise(text) != normalise(other)


def test_a_form_is_chosen_by_name() -> None:
    assert normalizer_of("basic") is normalise and normalizer_of("whisper-english") is whisper_english
    with pytest.raises(UserError, match=r"normalizer is 'whisper'; choose basic or whisper-english"):
        normalizer_of("whisper")


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from layerdial.text import normalisers

    normalisers._openai.cache_clear()
    monkeypatch.setitem(sys.modules, "whisper_normalizer.english", None)
    with pytest.raises(UserError, match=r"needs whisper_normalizer, which is not installed: .*\[whisper\]"):
        normalizer_of("whisper-english")
