"""When words are spoken whose labels a CTC model emits at known times, and the segments between their pauses."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import median

from layerdial.audio.pauses import Span
from layerdial.transcript import Segment, Word

_LAG = 0.1  # seconds from the start of a word to its first label, as is usual
_LONGEST_LAG = 0.6  # seconds: what comes later begins with something that has no label
_TAIL = 0.5  # seconds that a word goes on at most behind its last label, where nothing says when it ends
_PAUSE = 0.6  # seconds between words that end a segment
_LONGEST = 15.0  # seconds of a segment: beyond, its longest pause ends it, however short


def placed(words: Sequence[Word], quiet: Sequence[Span], seconds: float) -> list[Word]:
    """Return words with the times in which they are spoken, from those in which their labels are emitted.

    They lie within the audio of so many seconds, one after the other. A pause between two of them ends one and begins
    the other. Without a pause one ends where the other begins: before its first label, by the lag of this recording's
    words behind pauses.
    """
    lag = _lag(words, quiet)
    before, after = _pauses(words, quiet, lag)
    starts = [word.start - lag if pause is None else pause for word, pause in zip(words, before, strict=True)]
    ends = [word.end + _TAIL if pause is None else pause for word, pause in zip(words, after, strict=True)]
    found, last = list[Word](), 0.0
    for word, start, end, following in zip(words, starts, ends, [*starts, seconds][1:], strict=True):
        start = max(last, min(start, seconds))
        last = max(start, min(end, following, seconds))
        found.append(replace(word, start=start, end=last))
    return found


def _lag(words: Sequence[Word], quiet: Sequence[Span]) -> float:
    """Return the median time from the end of a pause to the first label behind it: models differ by 0.2 s.

    The usual lag counts as one pause more, since short recordings have few.
    """
    lag = 0.0
    for _ in range(2):  # the first time without knowing which words come before a pause and are emitted within it
        before, _ = _pauses(words, quiet, lag)
        lags = [word.start - pause for word, pause in zip(words, before, strict=True) if pause is not None]
        lag = median([*(one for one in lags if abs(one) < _LONGEST_LAG), _LAG])
    return lag


_Times = list[float | None]


def _pauses(words: Sequence[Word], quiet: Iterable[Span], lag: float) -> tuple[_Times, _Times]:
    """Return for each word the end of the last pause before it, and the begin of the first one behind it, if any.

    A pause within a word, between its labels, is none.
    """
    before, after = _Times([None] * len(words)), _Times([None] * len(words))
    starts = [word.start - lag for word in words]
    for first, last in quiet:
        middle = (first + last) / 2
        at = bisect_left(starts, middle)  # the first word that begins behind it
        if at and words[at - 1].end - lag > middle:
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
