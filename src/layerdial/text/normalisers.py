"""The normal forms of text in which words are counted: this package's, and Whisper's for English."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Literal

from layerdial.errors import UserError, needing
from layerdial.text.normalise import normalise

Normalizer = Literal["basic", "whisper-english"]


def whisper_english(text: str) -> str:
    """Return a text as OpenAI normalises it to quote Whisper's WER (Radford et al. 2022, appendix C).

    Numbers become digits, spelling American, contractions long; fillers such as "um" are removed. Raises `UserError`
    where whisper-normalizer, a copy of OpenAI's code, is not installed.

    >>> whisper_english("Mr. Quilter's colour, um, won twenty-two prizes")
    'mister quilter is color won 22 prizes'
    """
    return _openai()(text)


NORMALIZERS: Mapping[str, Callable[[str], str]] = {"basic": normalise, "whisper-english": whisper_english}


def normalizer_of(name: str) -> Callable[[str], str]:
    """Return the normaliser of this name, ready for use. Raises `UserError` for another name."""
    if name not in NORMALIZERS:
        raise UserError(f"normalizer is {name!r}; choose {' or '.join(NORMALIZERS)}")
    NORMALIZERS[name]("")  # what is not installed is said before the work
    return NORMALIZERS[name]


@cache
def _openai() -> Callable[[str], str]:
    with needing("whisper", "the normalizer whisper-english needs"):
        from whisper_normalizer.english import EnglishTextNormalizer
    made: Callable[[str], str] = EnglishTextNormalizer()
    return made
