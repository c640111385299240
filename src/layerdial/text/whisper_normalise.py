"""The normal form of English in which OpenAI quotes Whisper's WER (Radford et al. 2022, appendix C)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from layerdial.errors import needing


def whisper_english(text: str) -> str:
    """Return a text with numbers as digits, American spelling, long forms for contractions, and without fillers.

    Raises `UserError` where whisper-normalizer is not installed.

    >>> whisper_english("Mr. Quilter's colour, um, won twenty-two prizes")
    'mister quilter is color won 22 prizes'
    """
    return _normaliser()(text)


@cache
def _normaliser() -> Callable[[str], str]:
    with needing("whisper", "the normaliser whisper-english needs"):
        from whisper_normalizer.english import EnglishTextNormalizer
    made: Callable[[str], str] = EnglishTextNormalizer()
    return made
