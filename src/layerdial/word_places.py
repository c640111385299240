"""When words are spoken whose labels a CTC model emits at known times, and the segments between their pauses."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import replace

from layerdial.audio.pauses import Span
from layerdial.transcript import Segment, Word

_EARLY = 0.1  # seconds that a word begins before its first label is emitted, where no pause says when
_LATE = 0.1  # seconds that a word goes on behind its last label
_NEAR = 0.05  # seconds that a label may be emitted before its word begins
_PAUSE = 0.6  # seconds between words that end a segment
_LONGEST = 15.0  # seconds of a segment: beyond, its longest pause ends it, however short


def placed(words: Sequence[Word], quiet: Iterable[Span], seconds: float) -> list[Word]:
    """Return words with the times in which they are spoken, from those in which their labels are emitted.

    They lie within the audio of so many seconds, one after the other. A pause between two of them ends one and begins
    the other. Without a pause one ends where the other begins, a little before its first label.
    """
    if not words:
        return []
    before, after = _pauses(words, quiet)
    starts = [word.start - _EARLY if pause is None else pause for word, pause in zip(words, before, strict=True)]
    ends = [word.end + _LATE if pause is None else pause for word, pause in zip(words, after, strict=True)]
    found, last = list[Word](), 0.0
    for i, word in enumerate(words):
        start = max(last, min(starts[i], seconds))
        following = starts[i + 1] if i + 1 < len(words) else seconds
        end = ends[i] if after[i] is not None else max(min(ends[i], following), min(word.end, following))
        last = max(start, min(end, seconds))
        found.append(replace(word, start=start, end=last))
    return found


_Times = list[float | None]


def _pauses(words: Sequence[Word], quiet: Iterable[Span]) -> tuple[_Times, _Times]:
    """Return for each word the end of the last pause before it, and the begin of the first one behind it, if any.

    A pause within a word, between its labels, is none.
    """
    before, after = _Times([None] * len(words)), _Times([None] * len(words))
    starts = [word.start for word in words]
    for first, last in quiet:
        at = bisect_left(starts, last - _NEAR)  # the first word that begins behind it
        if at and words[at - 1].end > last + _NEAR:
            continue
        if at < len(words):
            before[at] = last
        if at and after[at - 1] is None:
            after[at - 1] = first
    return before, after


def segments_of(words: Sequence[Word]) -> tuple[Segment, ...]:
    """Return the stretches of words between pauses; one that is too long is cut at its longest pause."""
    parts = list[list[Word]]()
    for word in words:
        if parts and word.start - parts[-1][-1].end < _PAUSE:
            parts[-1].append(word)
        else:
            parts.append([word])
    return tuple(_segment(short) for part in parts for short in _shortened(part))


def _segment(words: Sequence[Word]) -> Segment:
    return Segment(words[0].start, words[-1].end, " ".join(word.text for word in words))


def _shortened(words: Sequence[Word]) -> list[Sequence[Word]]:
    """Return words in parts of at most so many seconds, cut where the pause is longest, and best in the middle."""
    waiting, done = [words], list[Sequence[Word]]()
    while waiting:
        part = waiting.pop()
        if len(part) < 2 or part[-1].end - part[0].start <= _LONGEST:
            done.append(part)
            continue
        middle = (part[0].start + part[-1].end) / 2
        at = max(range(1, len(part)), key=lambda i: (part[i].start - part[i - 1].end, -abs(part[i].start - middle)))
        waiting += [part[at:], part[:at]]
    return done
