"""The results of a stream: its text while it comes, and each text that has ended, with words and the depths that ran.

Shapes: T frames, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.pauses import quiet_of_energies
from layerdial.recognition.ctc_words import spoken_words
from layerdial.recognition.endpointing import End, EndpointDetector, Endpoints
from layerdial.recognition.stream_text import BeamText, EndedText, GreedyText, StreamText
from layerdial.recognition.word_places import placed, segments_of
from layerdial.text.ctc_beams import Pieces
from layerdial.text.ctc_decoder import CtcDecoder
from layerdial.transcript import Chunk, Segment, Transcribed, Word, later

_ENERGIES_PER_SECOND = 100
_ROUNDING = 1e-6  # seconds


@dataclass(frozen=True)
class StreamResult:
    """The text of a stream from `start` up to `end`, in seconds of its audio; `final` where it has ended.

    `stable` are the words with which this text begins, whatever follows. `chunks` are those in which it was recognised,
    with the blocks that ran. Final results have `words`, unless a beam search was not asked for them, and `segments` if
    they were asked for.
    """

    text: str
    stable: str
    final: bool
    start: float
    end: float
    chunks: tuple[Chunk, ...]
    words: tuple[Word, ...] = ()
    segments: tuple[Segment, ...] = ()

    @property
    def depth(self) -> int:
        """The most blocks that ran in a chunk of it."""
        return max(chunk.depth for chunk in self.chunks)


def _unchanged(made: Transcribed) -> Transcribed:
    return made


@dataclass(frozen=True)
class ResultPlan:
    """What is made of a stream's frames: texts of `pieces`, greedy or by `decoder`, that end as `endpoints` say.

    Without end points there is one text, which ends with the stream. `words` are for beam searches; greedy texts have
    them always. `calibrated` corrects their confidence.
    """

    pieces: Pieces
    samples_per_frame: int
    endpoints: Endpoints | None = None
    decoder: CtcDecoder | None = None
    words: bool = False
    segments: bool = False
    calibrated: Callable[[Transcribed], Transcribed] = _unchanged

    def begin(self) -> StreamResults:
        """Return what follows a stream from its begin."""
        return StreamResults(self)

    @property
    def frame(self) -> float:
        """The seconds of a frame."""
        return self.samples_per_frame / SAMPLE_RATE

    def text(self) -> StreamText:
        if self.decoder is None:
            return GreedyText(self.pieces)
        return BeamText(self.decoder, self.pieces, aligned=self.words or self.segments)


class StreamResults:
    """What came of a stream's frames so far. What it holds is bounded by the longest text that `plan` lets be."""

    def __init__(self, plan: ResultPlan) -> None:
        self._plan, self._text = plan, plan.text()
        self._speaks = np.array([bool(text.strip()) for text in plan.pieces.texts])
        self._detector = EndpointDetector(plan.endpoints, 1 / plan.frame) if plan.endpoints else None
        self._frame = self._begin = 0  # frames that came, and where the text begins
        self._spoken: int | None = None  # its first frame with a word
        self._chunks: list[Chunk] = []
        self._energies: list[NDArray[np.float32]] = []
        self._last = "", ""  # the text of the last result, and what of it was stable

    def follow(self, logp_TV: NDArray[np.float32], energies: NDArray[np.float32], chunk: Chunk) -> list[StreamResult]:
        """Return the results that a chunk's frames bring, in order; `energies` are of each hundredth of a second."""
        self._chunks.append(chunk)
        self._energies.append(energies)
        found, done = list[StreamResult](), 0
        for i, speaks in enumerate(self._speaks[logp_TV.argmax(axis=1)].tolist(), start=1):
            self._frame += 1
            if speaks and self._spoken is None:
                self._spoken = self._frame - 1
            end = self._detector.follow(speaks) if self._detector else None
            if end is not None:
                self._text.follow(logp_TV[done:i])
                found += self._ended(end, self._frame * self._plan.frame)
                done = i
        if done < len(logp_TV):
            self._text.follow(logp_TV[done:])
        return found + self._partial(chunk.end)

    def finish(self, seconds: float) -> list[StreamResult]:
        """Return the final result of what had not ended, where the stream ends after so many seconds."""
        return self._ended(End.PAUSE, seconds)

    def _partial(self, end: float) -> list[StreamResult]:
        """Return the text as far as it has come, if it is another than that of the last result."""
        now = self._text.text, self._text.stable
        if now == self._last:
            return []
        self._last = now
        start = (self._begin if self._spoken is None else self._spoken) * self._plan.frame
        return [StreamResult(*now, final=False, start=start, end=end, chunks=self._chunks_since(start))]

    def _ended(self, end: End, seconds: float) -> list[StreamResult]:
        """End the text; return its result, if anything was said."""
        ended = self._text.end(before_last_word=end is End.LENGTH)
        if ended.goes_on is not None:
            seconds = ended.goes_on * self._plan.frame
        found = [self._final(ended, seconds)] if ended.text else []
        self._begin_anew(ended.goes_on)
        return found

    def _final(self, ended: EndedText, seconds: float) -> StreamResult:
        words = self._words(ended, seconds)
        start = words[0].start if words else (self._begin if self._spoken is None else self._spoken) * self._plan.frame
        segments = segments_of(words) if self._plan.segments else ()
        chunks = self._chunks_since(start)
        made = self._plan.calibrated(Transcribed(ended.text, chunks, seconds, segments, words))
        return StreamResult(made.text, made.text, True, start, seconds, chunks, made.words, made.segments)

    def _words(self, ended: EndedText, seconds: float) -> tuple[Word, ...]:
        """Return the words, within the stretch of their text."""
        begin = self._begin * self._plan.frame
        emitted = [replace(one, first=one.first - self._begin, end=one.end - self._begin) for one in ended.spans]
        words = spoken_words(emitted, self._plan.pieces, self._plan.samples_per_frame)
        quiet = quiet_of_energies(np.concatenate(self._energies)) if self._energies else []
        return later(placed(words, quiet, seconds - begin), begin)

    def _chunks_since(self, seconds: float) -> tuple[Chunk, ...]:
        """Return the chunks that reach beyond so many seconds, and at least the last one."""
        return tuple(chunk for chunk in self._chunks if chunk.end > seconds + _ROUNDING) or tuple(self._chunks[-1:])

    def _begin_anew(self, goes_on: int | None) -> None:
        """Begin a text here, or with the word that goes on in it, and forget what came before."""
        before, self._begin = self._begin, self._frame if goes_on is None else goes_on
        self._spoken, self._last = goes_on, ("", "")
        if self._detector:
            self._detector.begin(self._frame - self._begin)
        self._chunks = [chunk for chunk in self._chunks if chunk.end > self._begin * self._plan.frame + _ROUNDING]
        gone = round((self._begin - before) * self._plan.frame * _ENERGIES_PER_SECOND)
        self._energies = [np.concatenate(self._energies)[gone:]] if self._energies else []
