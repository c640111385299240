"""Subtitles of words whose times are known: lines of 42 columns, two a cue, each cue 1 to 7 s long, none overlapping.

Where to cut is a shortest path: ends of sentences and pauses are cheap, cues that are short or hold a pause are not.
Letters of Chinese, Japanese and Korean are two columns wide. A cue that has to be longer than its words were spoken, to
be read at all, moves those behind it; in speech of usual rate the next pause ends that.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Protocol

COLUMNS = 42
SHORTEST_MS, LONGEST_MS = 1000, 7000

_PER_SECOND = 17  # columns that are read in a second: a cue stays so long where a pause follows
_PAUSE = 0.5  # seconds from which on a pause is as good a place as the end of a sentence
_HELD = 0.8  # seconds of silence that a cue may hold
_STOPS, _COMMAS = ".?!\u2026\u3002\uff1f\uff01", ",;:\u3001\uff0c\uff1b\uff1a"  # also those of wide letters
_CLOSING = "\"'\u201d\u2019\u00bb)]"


class Timed(Protocol):
    """A word, or a stretch of several, and the seconds in which it is spoken."""

    @property
    def text(self) -> str: ...
    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...


@dataclass(frozen=True)
class Piece:
    """What a line holds whole: a word with its signs. `spaced`: a space stands before it; `last`: it ends a stretch."""

    text: str
    start: float
    end: float
    spaced: bool = True
    last: bool = False


@dataclass(frozen=True)
class Cue:
    """One or two lines of text, and the milliseconds in which they are shown; `speaker` where several speak."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]
    speaker: str = ""


# ----------------------------------------------------------------------------------------------------------- pieces


def pieces_of_words(text: str, words: Sequence[Timed]) -> list[Piece]:
    """Return the words with the signs and spaces that `text` has around them; words alone where they are of another."""
    spans = _spans(text, words)
    if spans is None:
        return [Piece(word.text, word.start, word.end) for word in words if word.text.strip()]
    return [
        Piece(text[begin:end].strip(), word.start, word.end, begin == 0 or text[begin].isspace())
        for word, (begin, end) in zip(words, spans, strict=True)
    ]


def _spans(text: str, words: Sequence[Timed]) -> list[tuple[int, int]] | None:
    """Return where each word stands in `text`, with what follows it up to a space; None where letters are left over."""
    found, at = [], 0
    for word in words:
        begin = text.find(word.text.strip(), at)
        if begin < 0 or not word.text.strip() or any(map(str.isalnum, text[at:begin])):
            return None
        found.append((begin, at := begin + len(word.text.strip())))
    if any(map(str.isalnum, text[at:])) or not found:
        return None
    cuts = [_first_space(text, end, begin) for (_, end), (begin, _) in pairwise(found)]
    return list(pairwise([0, *cuts, len(text)]))


def _first_space(text: str, start: int, end: int) -> int:
    """Return the place of the first space between two places of a text, or `end`."""
    return next((place for place in range(start, end) if text[place].isspace()), end)


def pieces_of_segments(segments: Iterable[Timed]) -> list[Piece]:
    """Return the words of segments; the time of each is its share of the segment's, by its characters."""
    found: list[Piece] = []
    for segment in segments:
        words = segment.text.split()
        parts = _shares(segment.start, segment.end, [len(word) for word in words])
        found += [Piece(word, start, end) for word, (start, end) in zip(words, parts, strict=True)]
        if words:
            found[-1] = replace(found[-1], last=True)
    return found


def _shares(start: float, end: float, sizes: Sequence[int]) -> list[tuple[float, float]]:
    """Return the parts, in order, of the time from `start` to `end` that have these sizes."""
    step = (end - start) / max(1, sum(sizes))
    return list(pairwise(start + step * size for size in accumulate(sizes, initial=0)))


# ------------------------------------------------------------------------------------------------------------- cues


def cues(pieces: Sequence[Piece], speaker: str = "") -> list[Cue]:
    """Return the cues of pieces that follow each other; with a `speaker`, whose name the first line has room for."""
    first = COLUMNS - width(label(speaker))
    whole = [part for piece in pieces for part in _chopped(piece, first)]
    groups = _groups(whole, first)
    found, free = list[Cue](), 0
    for group, following in pairwise([*groups, []]):
        begin = max(_ms(group[0].start), free)
        free = _end(begin, group, _ms(following[0].start) if following else _ms(group[-1].end))
        found.append(Cue(begin, free, _lines(group, first), speaker))
    return found


def label(speaker: str) -> str:
    """Return what stands before the words of a speaker."""
    return f"{speaker}: " if speaker else ""


def width(text: str) -> int:
    """Return how many columns a text takes; wide letters take two, accents of their own none."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


def _ms(seconds: float) -> int:
    return round(1000 * seconds)


def _end(begin: int, group: Sequence[Piece], following: int) -> int:
    """Return when a cue that is shown from `begin` on ends, in ms; the next one would begin at `following`."""
    to_read = begin + round(1000 * _width(group) / _PER_SECOND)
    spoken = min(_ms(group[-1].end), max(following, _ms(group[0].start)))
    return min(max(spoken, min(to_read, following), begin + SHORTEST_MS), begin + LONGEST_MS)


def _chopped(piece: Piece, room: int) -> list[Piece]:
    """Return a piece in parts that a line has room for: most are one, and a text without spaces is many."""
    parts = [""]
    for letter in piece.text:
        if width(parts[-1] + letter) > room:
            parts.append("")
        parts[-1] += letter
    times = _shares(piece.start, piece.end, [len(part) for part in parts])
    found = [replace(piece, text=part, start=a, end=b, last=False) for part, (a, b) in zip(parts, times, strict=True)]
    return [
        replace(one, spaced=piece.spaced and i == 0, last=piece.last and i + 1 == len(parts))
        for i, one in enumerate(found)
    ]


def _groups(pieces: Sequence[Piece], first: int) -> list[Sequence[Piece]]:
    """Return pieces by their cues: the cheapest way through all places where a cue can end."""
    best = [(0.0, 0)] + [(float("inf"), 0)] * len(
        pieces
    )  # the cost of the pieces so far, and where the last cue begins
    for begin in range(len(pieces)):
        for end in _ends(pieces, begin, first):
            cost = best[begin][0] + _cost(pieces, begin, end)
            if cost < best[end][0]:
                best[end] = (cost, begin)
    cuts = [len(pieces)]
    while cuts[-1] > 0:
        cuts.append(best[cuts[-1]][1])
    return [pieces[begin:end] for begin, end in pairwise(reversed(cuts))]


def _ends(pieces: Sequence[Piece], begin: int, first: int) -> Iterable[int]:
    """Yield where a cue from `begin` on can end: as long as it has two lines, and 7 s; one piece is always a cue."""
    room, used, on_second = first, 0, False
    for end in range(begin + 1, len(pieces) + 1):
        piece = pieces[end - 1]
        more = width(piece.text) + (piece.spaced and used > 0)
        if used + more > room:
            if on_second:
                return
            room, used, on_second, more = COLUMNS, 0, True, width(piece.text)
        used += more
        if end > begin + 1 and 1000 * (piece.end - pieces[begin].start) > LONGEST_MS:
            return
        yield end


def _cost(pieces: Sequence[Piece], begin: int, end: int) -> float:
    """Return what a cue costs: 1, and more where it ends badly, holds a pause, is too short to be read, or is full.

    It also costs 1 to begin a sentence behind another, and not to end it.
    """
    group = pieces[begin:end]
    pauses = [b.start - a.end for a, b in pairwise(group)]
    following = pieces[end].start if end < len(pieces) else None
    held = sum(max(0.0, pause - _HELD) for pause in pauses)
    short = following is not None and 1000 * (following - group[0].start) < SHORTEST_MS
    fullness = _width(group) / (2 * COLUMNS)
    ends = _cost_of_end(group[-1], following)
    torn = ends > 0 and any(_ends_with(piece, _STOPS) for piece in group[:-1])
    return 1.0 + ends + torn + 5.0 * held + 2.0 * short + 0.5 * fullness**2


def _cost_of_end(piece: Piece, following: float | None) -> float:
    """Return how bad a place behind a piece is, from 0 to 1; the next one is spoken from `following` on."""
    if following is None or piece.last or _ends_with(piece, _STOPS):
        return 0.0
    to_pause = max(0.0, 1.0 - max(0.0, following - piece.end) / _PAUSE)
    return min(0.3, to_pause) if _ends_with(piece, _COMMAS) else to_pause


def _ends_with(piece: Piece, signs: str) -> bool:
    return piece.text.rstrip(_CLOSING)[-1:] in tuple(signs)


def _width(group: Sequence[Piece]) -> int:
    return sum(width(piece.text) + piece.spaced for piece in group) - group[0].spaced


def _lines(group: Sequence[Piece], first: int) -> tuple[str, ...]:
    """Return the text as one line, or as two of which neither is much longer; a line ends better behind a sign."""
    if _width(group) <= first:
        return (_text(group),)
    fitting = [at for at in range(1, len(group)) if _width(group[:at]) <= first and _width(group[at:]) <= COLUMNS]

    def cost(at: int) -> float:
        uneven = abs(_width(group[:at]) - _width(group[at:])) / COLUMNS
        return uneven + (0.0 if _ends_with(group[at - 1], _STOPS + _COMMAS) else 0.4)

    at = min(fitting, key=cost)
    return _text(group[:at]), _text(group[at:])


def _text(group: Sequence[Piece]) -> str:
    return "".join(" " * (piece.spaced and i > 0) + piece.text for i, piece in enumerate(group))


# ------------------------------------------------------------------------------------------------------------ files


def in_order(*speakers: Iterable[Cue]) -> list[Cue]:
    """Return the cues of several speakers by time; those of two may overlap, where both speak."""
    return sorted((cue for one in speakers for cue in one), key=lambda cue: (cue.start_ms, cue.end_ms))


def srt(cues: Iterable[Cue]) -> str:
    """Return the text of a SubRip file."""
    blocks = []
    for number, cue in enumerate(cues, start=1):
        lines = "\n".join(cue.lines).replace("-->", "->")
        blocks.append(
            f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n{label(cue.speaker)}{lines}\n"
        )
    return "\n".join(blocks)


def vtt(cues: Iterable[Cue]) -> str:
    """Return the text of a WebVTT file, with the speaker as the voice."""
    blocks = ["WEBVTT\n"]
    for cue in cues:
        voice = f"<v {_escaped(cue.speaker)}>" if cue.speaker else ""
        lines = _escaped("\n".join(cue.lines))
        blocks.append(f"{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n{voice}{lines}\n")
    return "\n".join(blocks)


def tsv(cues: Sequence[Cue]) -> str:
    """Return a table, a row a cue: start and end in milliseconds, the speaker where there is one, the text."""
    spoken = any(cue.speaker for cue in cues)
    rows = [["start", "end", *["speaker"] * spoken, "text"]]
    for cue in cues:
        rows.append([str(cue.start_ms), str(cue.end_ms), *[cue.speaker] * spoken, " ".join(cue.lines)])
    return "".join("\t".join(row) + "\n" for row in rows)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(ms: int, point: str) -> str:
    seconds, ms = divmod(ms, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{ms:03d}"
