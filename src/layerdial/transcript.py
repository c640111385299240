"""The result of a recognition: the text, and when and by which blocks it was recognised."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from layerdial.subset import BlockSubset


@dataclass(frozen=True)
class Chunk:
    """The blocks that ran on one stretch of audio, from `start` to `end` in seconds, and the reason for them.

    `confidence` is the mean posterior of the frames whose best token is not the blank (1 where there is none); of a
    decoder the geometric mean over its tokens. `cut`: its text is not whole, because the decoder repeated itself.
    `language` is another one that it sounds like than it was recognised as: a code, "unknown" where a checkpoint of
    English alone is not sure, or empty.
    """

    start: float
    end: float
    subset: BlockSubset
    reason: str = ""
    confidence: float | None = None
    cut: bool = False
    language: str = ""

    @property
    def depth(self) -> int:
        return self.subset.depth


@dataclass(frozen=True)
class Word:
    """A word as it is written in the text, spoken from `start` to `end` in seconds, and its confidence in [0, 1]."""

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Segment:
    """A stretch of audio, from `start` to `end` in seconds, and the text that is spoken there."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Transcribed:
    """The text of `seconds` of audio and the chunks of its recognition; segments and words if they were asked for.

    There are no chunks where voice activity detection found no speech.
    """

    text: str
    chunks: tuple[Chunk, ...]
    seconds: float
    segments: tuple[Segment, ...] = ()
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Transcript:
    """The `text` of `seconds` of audio by the blocks of `subset`; `rtf` is the elapsed time over the audio time.

    Audio above 30 s is cut into chunks. Where depth may change between them, `subset` is the deepest that ran, and
    `chunks` has each; with voice activity detection they are the stretches of speech, and there may be none. `reason`
    explains the depth, where the request did not give it. `segments` are there where a request asks for timestamps, and
    `words` where it asks for them: one after the other, within the audio.
    """

    text: str
    subset: BlockSubset
    seconds: float
    rtf: float
    reason: str = ""
    chunks: tuple[Chunk, ...] = ()
    segments: tuple[Segment, ...] = ()
    words: tuple[Word, ...] = ()

    @classmethod
    def of(cls, made: Transcribed, taken: float, asked: BlockSubset) -> Transcript:
        """Return the transcript that took so many seconds; `asked` are its blocks where there was no speech."""
        nothing = Chunk(0.0, made.seconds, asked, "no speech was found, so nothing was computed")
        deepest = max(made.chunks, key=lambda chunk: chunk.depth, default=nothing)
        rtf = taken / made.seconds
        return cls(made.text, deepest.subset, made.seconds, rtf, deepest.reason, made.chunks, made.segments, made.words)

    @property
    def cut(self) -> bool:
        """True where something was left out: a decoder repeated itself, and its text was cut there."""
        return any(chunk.cut for chunk in self.chunks)

    @property
    def other_language(self) -> str:
        """What most of the audio sounds like, if that is another language than it was recognised as; see `Chunk`."""
        seconds = dict.fromkeys((chunk.language for chunk in self.chunks), 0.0)
        for chunk in self.chunks:
            seconds[chunk.language] += chunk.end - chunk.start
        return max(seconds, key=seconds.__getitem__, default="")

    @property
    def depth(self) -> int:
        return self.subset.depth

    def moved(self, seconds: float) -> Transcript:
        """Return it with all its times so many seconds later, as those of a stretch that begins there."""
        chunks, segments = later(self.chunks, seconds), later(self.segments, seconds)
        return replace(self, chunks=chunks, segments=segments, words=later(self.words, seconds))


_Timed = TypeVar("_Timed", Chunk, Segment, Word)


def later(items: Iterable[_Timed], seconds: float) -> tuple[_Timed, ...]:
    """Return chunks, segments or words that begin and end so many seconds later."""
    return tuple(replace(item, start=item.start + seconds, end=item.end + seconds) for item in items)


def joined(texts: Iterable[str]) -> str:
    """Return the text of pieces that follow each other."""
    return " ".join(filter(None, texts))
