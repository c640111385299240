"""Audio of any length by pieces that follow each other, for decoders that write a text of each.

Shapes: S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.pauses import outside, quiet_stretches
from layerdial.audio.whisper_mel import is_silent
from layerdial.audio.windows import WINDOW_SECONDS, pieces, quiet_cut, take_pieces
from layerdial.recognizer import Audio, FeatureBatch
from layerdial.subset import BlockSubset
from layerdial.text.spoken_language import UNKNOWN, unsure_of_english
from layerdial.transcript import Chunk, Segment, Transcribed, Word, joined

if TYPE_CHECKING:
    from layerdial.text.timestamps import Stamps, TimedTokens
    from layerdial.text.token_rules import SpokenToken, Written


@dataclass(frozen=True)
class PieceResult:
    """The transcript that a decoder wrote of one piece, and the chunk with the blocks and the reason."""

    written: Written
    chunk: Chunk

    @property
    def marked(self) -> Chunk:
        """The chunk with what was noticed about the text: that it was cut, or sounds like another language."""
        return replace(self.chunk, cut=self.written.looped, language=self._language)

    @property
    def _language(self) -> str:
        """Another language that is spoken. With fewer blocks a checkpoint of English alone is unsure of English too."""
        written, subset = self.written, self.chunk.subset
        if written.is_silence or written.language is not None:
            return "" if written.is_silence else written.language or ""
        unsure = unsure_of_english(written.mean_logp, len(written.tokens))
        return UNKNOWN if unsure and subset.depth == subset.n_blocks else ""


RecognizePiece = Callable[[NDArray[np.float32], float, float], PieceResult]
RecognizeWith = Callable[[NDArray[np.float32], float, float, BlockSubset], PieceResult]
Decode = Callable[[Sequence[int]], str]
MakeWords = Callable[[Sequence[int], "Sequence[SpokenToken]"], "list[Word]"]
"""Returns the words of tokens and their times, in seconds of the piece."""
_LOOPED = "all blocks, because the text repeated itself"


def recognize_pieces(
    audio: Audio,
    recognize: RecognizePiece,
    decode: Decode,
    stamps: Stamps | None = None,
    words: MakeWords | None = None,
) -> Transcribed:
    """Return the transcript of a file or of samples (S,) at 16 kHz, made of pieces of at most 30 s.

    `recognize(samples, begin, end)` is called with each piece and its seconds. Pieces end where it is quiet; with
    `stamps`, which are in the transcripts then, where the last whole segment ends. `words` are there if it makes them.
    Raises `UserError` as `pieces` does.
    """
    if stamps is not None:
        timed = _TimedPieces(recognize, decode, stamps, words)
        take_pieces(audio, timed.take)
        return timed.transcribed()
    results, found = list[PieceResult](), list[Word]()
    begin = 0.0
    for samples in pieces(audio):
        end = begin + len(samples) / SAMPLE_RATE
        results.append(recognize(samples, begin, end))
        written = results[-1].written
        if words is not None and not written.is_silence:
            found += _placed(words(written.tokens, written.spoken), samples, begin)
        begin = end
    chunks = tuple(result.marked for result in results)
    text = joined(result.written.text(decode) for result in results)
    return Transcribed(text, chunks, max(begin, 1 / SAMPLE_RATE), words=tuple(found))


def _placed(words: Iterable[Word], samples: NDArray[np.float32], begin: float) -> list[Word]:
    """Return words of a piece (S,) with the times of the recording: within it, one after the other, not in pauses."""
    placed, quiet, seconds, last = list[Word](), quiet_stretches(samples), len(samples) / SAMPLE_RATE, 0.0
    for word in words:
        start, end = outside((word.start, word.end), quiet)
        start = max(last, min(start, seconds))
        last = max(start, min(end, seconds))
        placed.append(replace(word, start=begin + start, end=begin + last))
    return placed


class _TimedPieces:
    """The pieces of a recording, one after the other, as far as their segments are whole."""

    def __init__(
        self, recognize: RecognizePiece, decode: Decode, stamps: Stamps, words: MakeWords | None = None
    ) -> None:
        self._recognize, self._decode, self._stamps, self._make_words = recognize, decode, stamps, words
        self._begin = 0.0
        self._texts: list[str] = []
        self._chunks: list[Chunk] = []
        self._segments: list[Segment] = []
        self._words: list[Word] = []

    def take(self, samples: NDArray[np.float32], more: bool) -> int:
        """Recognise samples (S,) that follow the last piece; return how many of them make the next one.

        Where audio follows (`more`) that is up to the end of the last whole segment. If this is in the first third of
        30 s, the samples are cut where it is quiet, and recognised again.
        """
        chunk, parts, spoken = self._recognized(samples)
        n_done = len(samples)
        if more and parts:
            parts, n_done = _whole(parts, n_done)
            if n_done < WINDOW_SECONDS * SAMPLE_RATE // 3:
                n_done = quiet_cut(samples)
                chunk, parts, spoken = self._recognized(samples[:n_done])
        self._add(chunk, parts, spoken, samples[:n_done])
        return n_done

    def _recognized(self, samples: NDArray[np.float32]) -> tuple[Chunk, list[TimedTokens], Sequence[SpokenToken]]:
        result = self._recognize(samples, self._begin, self._begin + len(samples) / SAMPLE_RATE)
        written = result.written
        return result.marked, [] if written.is_silence else self._stamps.segments(written.tokens), written.spoken

    def _add(
        self, chunk: Chunk, parts: Sequence[TimedTokens], spoken: Sequence[SpokenToken], samples: NDArray[np.float32]
    ) -> None:
        """Add the segments and words of the next piece (S,)."""
        begin, seconds = self._begin, len(samples) / SAMPLE_RATE
        for part in parts:
            ends = part.start, seconds if part.end is None else part.end
            start, end = (begin + min(time, seconds) for time in ends)
            if text := self._decode(part.tokens):
                self._segments.append(Segment(start, end, text))
        if self._make_words is not None:
            self._words += _placed(_words_of_parts(self._make_words, parts, spoken), samples, begin)
        self._texts.append(self._decode([token for part in parts for token in part.tokens]))
        self._chunks.append(replace(chunk, end=begin + seconds))
        self._begin += seconds

    def transcribed(self) -> Transcribed:
        seconds = max(self._begin, 1 / SAMPLE_RATE)
        text, segments, words = joined(self._texts), tuple(self._segments), tuple(self._words)
        return Transcribed(text, tuple(self._chunks), seconds, segments, words)


def _words_of_parts(
    make_words: MakeWords, parts: Iterable[TimedTokens], spoken: Sequence[SpokenToken]
) -> Iterator[Word]:
    """Yield the words of each segment, which have the times of their places in the whole text."""
    for part in parts:
        yield from make_words(part.tokens, spoken[part.first : part.first + len(part.tokens)])


def _whole(parts: Sequence[TimedTokens], n_samples: int) -> tuple[list[TimedTokens], int]:
    """Return the segments that do not break off, and where the last of them ends, in samples."""
    whole = [(part, part.end) for part in parts if part.end is not None]
    end = whole[-1][1] if whole else 0.0
    return [part for part, _ in whole], min(n_samples, round(SAMPLE_RATE * end))


def again_with_all_blocks(recognize: RecognizeWith, subset: BlockSubset) -> RecognizePiece:
    """Return a function that recognises a piece with `subset`, and one whose text repeats itself with all blocks."""
    full = BlockSubset.full(subset.n_blocks)

    def recognize_piece(samples: NDArray[np.float32], begin: float, end: float) -> PieceResult:
        found = recognize(samples, begin, end, subset)
        if not found.written.looped or subset == full:
            return found
        again = recognize(samples, begin, end, full)
        return replace(again, chunk=replace(again.chunk, reason=_LOOPED))

    return recognize_piece


def texts_of(batch: FeatureBatch, written: Sequence[Written], decode: Decode) -> list[str]:
    """Return the text of each utterance of a batch of log-mel; silence has none."""
    rows = zip(batch.inputs, batch.lengths_B.tolist(), written, strict=True)
    return ["" if is_silent(inputs_TF[:length]) else one.text(decode) for inputs_TF, length, one in rows]
