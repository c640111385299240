"""Transcripts in the style of a recogniser: its capitals and punctuation, the corpus' words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from layerdial.text.normalise import normalise

_TAIL = re.compile(r"[^\w'\u2019]+$")


@dataclass(frozen=True)
class _Written:
    """A word as it was written, and the normalised words that it stands for (none for a dash)."""

    text: str
    words: tuple[str, ...]


def restyle(transcript: str, recognised: str) -> str:
    """Return the words of `transcript`, written as in `recognised` where both have them.

    Words that were recognised as others take the capital and the punctuation of what stood in their place.

    >>> restyle("OUR VIRTUES IT IS PROBABLE", "Our virtues! It is, probably.")
    'Our virtues! It is, probable.'
    """
    words = normalise(transcript).split()
    written = [_Written(text, tuple(normalise(text).split())) for text in recognised.split()]
    owners = [number for number, token in enumerate(written) for _ in token.words]
    heard = [word for token in written for word in token.words]
    found: list[str] = []
    for same, (from_a, to_a), (from_b, to_b) in _stretches(words, heard):
        if same:
            found += _as_written(words[from_a:to_a], written, owners, from_b)
        elif to_a > from_a:
            replaced = [written[owners[i]].text for i in range(from_b, to_b)]
            begins = not found or found[-1][-1:] in ".!?"
            found += _in_place_of(words[from_a:to_a], replaced, begins)
        elif found:  # words that nobody said: their last sign ends what stands before them
            found[-1] = _TAIL.sub("", found[-1]) + _tail(written[owners[to_b - 1]].text)
    return " ".join(found)


def _stretches(a: list[str], b: list[str]) -> Iterator[tuple[bool, tuple[int, int], tuple[int, int]]]:
    """Yield whether a stretch of both is the same, and its ends in either."""
    import jiwer

    at_a = at_b = 0
    chunks = jiwer.process_words(" ".join(a), " ".join(b)).alignments[0] if a and b else []
    for chunk in [chunk for chunk in chunks if chunk.type == "equal"]:
        if (at_a, at_b) != (chunk.ref_start_idx, chunk.hyp_start_idx):
            yield False, (at_a, chunk.ref_start_idx), (at_b, chunk.hyp_start_idx)
        at_a, at_b = chunk.ref_end_idx, chunk.hyp_end_idx
        yield True, (chunk.ref_start_idx, at_a), (chunk.hyp_start_idx, at_b)
    if (at_a, at_b) != (len(a), len(b)):
        yield False, (at_a, len(a)), (at_b, len(b))


def _as_written(words: list[str], written: list[_Written], owners: list[int], start: int) -> Iterator[str]:
    """Yield the same words as they were written; a part of a written word, as of a number, is yielded plainly."""
    i = 0
    while i < len(words):
        token = written[owners[start + i]]
        size = len(token.words)
        first = start + i == 0 or owners[start + i - 1] != owners[start + i]
        if first and tuple(words[i : i + size]) == token.words:
            yield token.text
            i += size
        else:
            yield words[i]
            i += 1


def _in_place_of(words: list[str], replaced: list[str], begins: bool) -> list[str]:
    """Return words with the capital and the last sign of others; `begins`: a sentence begins, as with a number."""
    if not replaced:
        return words
    if replaced[0][:1].isupper() or (begins and replaced[0][:1].isdigit()):
        words = [words[0][0].upper() + words[0][1:], *words[1:]]
    return [*words[:-1], words[-1] + _tail(replaced[-1])]


def _tail(text: str) -> str:
    found = _TAIL.search(text)
    return found.group() if found else ""
