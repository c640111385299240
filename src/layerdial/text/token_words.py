"""The words of a text that was written in tokens, with the tokens that each is made of.

Words are what stands between spaces. In scripts without spaces (Chinese, Japanese, Thai, ...) each token is a word, as
in openai-whisper. Punctuation that stands alone belongs to the word before it; what opens a bracket, to the next.
"""

from __future__ import annotations

import codecs
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from layerdial.text.byte_level import ByteTable
from layerdial.text.token_rules import SpokenToken
from layerdial.transcript import Word

_WITHOUT_SPACES = (  # code points of scripts that do not write spaces between words
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x109F),  # Tibetan, Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3001, 0x30FF),  # Chinese and Japanese punctuation, Hiragana, Katakana
    (0x31F0, 0x31FF),
    (0x3400, 0x9FFF),  # Chinese characters
    (0xF900, 0xFAFF),
    (0xFF00, 0xFFEF),  # wide forms
    (0x20000, 0x3FFFF),
)

_SPOKEN = "LMN"  # Unicode's letters, marks on them, and numbers


@dataclass(frozen=True)
class _Part:
    """Whole characters, and the places of the tokens that they were made of; `spoken`: of those with letters."""

    text: str
    tokens: tuple[int, ...]
    spoken: tuple[int, ...]

    @classmethod
    def of(cls, text: str, tokens: tuple[int, ...]) -> _Part:
        return cls(text, tokens, tokens if any(unicodedata.category(letter)[0] in _SPOKEN for letter in text) else ())

    @property
    def opens(self) -> bool:
        return all(unicodedata.category(letter) in ("Ps", "Pi") for letter in self.text)

    def with_(self, other: _Part, between: str = "") -> _Part:
        return _Part(self.text + between + other.text, self.tokens + other.tokens, self.spoken + other.spoken)


_Pieces = Iterable[tuple[str, tuple[int, ...], bool]]
"""Whole characters, none of them a space, the places of their tokens, and whether a space is before them."""


def words_of(table: ByteTable, tokens: Sequence[int], spoken: Sequence[SpokenToken]) -> list[Word]:
    """Return the words of byte-level tokens. Their times and confidence are those of the tokens with letters or digits.

    The confidence is the geometric mean of the tokens' probabilities.
    """
    return _words(_pieces(table, tokens), spoken)


def words_of_texts(texts: Iterable[str], spoken: Sequence[SpokenToken]) -> list[Word]:
    """Return what `words_of` does, of the text of each token."""
    return _words(_pieces_of_texts(texts), spoken)


def whole_words(texts: Sequence[str]) -> int:
    """Return how many of the first tokens spell words that no token behind them can make longer.

    `texts` are the texts of the tokens, none of them empty.
    """
    if texts and texts[-1][-1].isspace():
        return len(texts)
    for i in range(len(texts) - 1, 0, -1):
        before, after = texts[i - 1][-1], texts[i][0]
        if before.isspace() or after.isspace() or _is_boundary(before, after):
            return i
    return 0


def _words(pieces: _Pieces, spoken: Sequence[SpokenToken]) -> list[Word]:
    return [_word(part, spoken) for part in _joined(_parts(pieces))]


def _word(part: _Part, spoken: Sequence[SpokenToken]) -> Word:
    own = [spoken[i] for i in part.spoken or part.tokens]
    confidence = math.exp(min(0.0, sum(one.logp for one in own) / len(own)))
    return Word(part.text, own[0].start, own[-1].end, confidence)


def _parts(pieces: _Pieces) -> Iterator[list[_Part]]:
    """Yield the parts of each stretch of text between spaces: one, or several in scripts without spaces."""
    parts = list[_Part]()
    for text, places, after_space in pieces:
        part = _Part.of(text, places)
        if parts and after_space:
            yield parts
            parts = []
        if parts and not _is_boundary(parts[-1].text[-1], text[0]):
            parts[-1] = parts[-1].with_(part)
        else:
            parts.append(part)
    if parts:
        yield parts


def _pieces_of_texts(texts: Iterable[str]) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    spaced = False
    for i, text in enumerate(texts):
        for n, piece in enumerate(text.split()):
            yield piece, (i,), n > 0 or spaced or text[0].isspace()
            spaced = False
        spaced = spaced or text[-1:].isspace()


def _pieces(table: ByteTable, tokens: Sequence[int]) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    decoder, places, spaced = codecs.getincrementaldecoder("utf-8")("replace"), list[int](), False
    for i, token in enumerate(tokens):
        places.append(i)
        text = decoder.decode(table.bytes[token], final=i == len(tokens) - 1)
        if not text:
            continue
        unfinished = bool(decoder.getstate()[0])
        for n, piece in enumerate(text.split()):
            yield piece, tuple(places), n > 0 or spaced or text[0].isspace()
            spaced = False
        spaced = spaced or text[-1].isspace()
        places = [i] if unfinished else []


def _is_boundary(before: str, after: str) -> bool:
    """Return whether a word may end between two characters without a space: one is of a script that has none."""
    if unicodedata.category(after).startswith("M"):  # a mark on the character before it
        return False
    return _is_of_such_script(before) or _is_of_such_script(after)


def _is_of_such_script(letter: str) -> bool:
    return any(first <= ord(letter) <= last for first, last in _WITHOUT_SPACES)


def _joined(stretches: Iterable[list[_Part]]) -> list[_Part]:
    """Return the words: punctuation that stands alone is joined to its neighbour."""
    words, waiting = list[_Part](), None
    for stretch in stretches:
        for n, part in enumerate(stretch):
            between = "" if n else " "
            if waiting is not None:
                part, waiting = waiting.with_(part, between), None
            elif not part.spoken and words and not part.opens:
                words[-1] = words[-1].with_(part, between)
                continue
            if part.spoken:
                words.append(part)
            else:
                waiting = part
    return words if waiting is None else _ending(words, waiting)


def _ending(words: list[_Part], left: _Part) -> list[_Part]:
    """Return words with punctuation behind which no word came; alone, it is a word of its own."""
    return [*words[:-1], words[-1].with_(left, " ")] if words else [left]
