"""The inputs and outputs of a recogniser, and the one type that torch's and ONNX Runtime's implement.

Shapes: B batch, T frames, F mel bins, S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.features import Features
from layerdial.audio.files import SAMPLE_RATE, AudioPath
from layerdial.audio.pauses import outside, quiet_stretches
from layerdial.audio.whisper_mel import is_silent
from layerdial.audio.windows import WINDOW_SECONDS, Window, pieces, quiet_cut, take_pieces, windows
from layerdial.cost import Cost
from layerdial.errors import UserError
from layerdial.ladder import Ladder
from layerdial.request import Request
from layerdial.subset import Blocks, BlockSubset
from layerdial.transcript import Chunk, Segment, Transcribed, Transcript, Word

if TYPE_CHECKING:
    from layerdial.text.ctc_beams import Pieces
    from layerdial.text.timestamps import Stamps, TimedTokens
    from layerdial.text.token_rules import SpokenToken, Written

Audio = AudioPath | NDArray[np.float32]
"""A file, `-` or another pipe, one `Channel` of either, or samples (S,) at 16 kHz within [-1, 1]."""


@dataclass(frozen=True)
class FeatureBatch:
    """Utterances as a network takes them: `inputs` zero-padded, `lengths_B` without padding, `texts` the transcripts.

    `inputs` is log-mel (B, T, F) or samples (B, S); `lengths_B` counts frames or samples. An utterance that is longer
    than the network takes stands there in pieces, one a row: they have its id, and the first has its transcript.
    """

    ids: tuple[str, ...]
    inputs: NDArray[np.float32]
    lengths_B: NDArray[np.int64]
    texts: tuple[str, ...]
    audio_seconds: float


def in_pieces(batch: FeatureBatch) -> set[str]:
    """Return the ids of the utterances in pieces. What was said in which of them is not known: they have no loss."""
    return {name for name, following in pairwise(batch.ids) if name and name == following}


def whole_rows(batch: FeatureBatch) -> FeatureBatch:
    """Return the utterances that are not in pieces: the batch itself where none is."""
    split = in_pieces(batch)
    if not split:
        return batch
    rows = [row for row, name in enumerate(batch.ids) if name not in split]
    ids, texts = (tuple(values[row] for row in rows) for values in (batch.ids, batch.texts))
    return replace(batch, ids=ids, texts=texts, inputs=batch.inputs[rows], lengths_B=batch.lengths_B[rows])


def by_utterance(batch: FeatureBatch, found: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield the id, the transcript and the text found of each utterance; those of pieces are joined."""
    for name, rows in groupby(zip(batch.ids, batch.texts, found, strict=True), key=itemgetter(0)):
        pieces = list(rows)
        if name:
            yield name, joined(text for _, text, _ in pieces), joined(text for _, _, text in pieces)
        else:  # without a name nothing is a piece of anything
            yield from pieces


def check_whole(batch: FeatureBatch) -> None:
    """Raise `UserError` for an utterance in pieces, of which no loss can be computed."""
    if split := in_pieces(batch):
        raise UserError(f"cut {min(split)} is longer than the network takes at once, so it has no loss; leave it out")


def collate_features(
    ids: Sequence[str], features: Sequence[NDArray[np.float32]], texts: Sequence[str], audio_seconds: float
) -> FeatureBatch:
    """Pad features (T_b, F) or samples (S_b,) with zeros to one array."""
    lengths_B = np.array([len(f) for f in features], dtype=np.int64)
    padded = np.zeros((len(features), int(lengths_B.max()), *features[0].shape[1:]), dtype=np.float32)
    for row, feature in zip(padded, features, strict=True):
        row[: len(feature)] = feature
    return FeatureBatch(tuple(ids), padded, lengths_B, tuple(texts), audio_seconds)


class Recognizer(Protocol):
    """A loaded model that turns audio into text with any subset of its blocks."""

    @property
    def name(self) -> str:
        """The folder that it was loaded from."""
        ...

    @property
    def n_blocks(self) -> int: ...

    @property
    def features(self) -> Features:
        """The function that turns samples into the network's input."""
        ...

    @property
    def ladder(self) -> Ladder | None:
        """The ladder beside the model, if it has one."""
        ...

    @property
    def device(self) -> str:
        """The device that computes: "cpu", "cuda:0", ..."""
        ...

    @property
    def threads(self) -> int:
        """The number of threads of one pass on the CPU."""
        ...

    @property
    def has_loss(self) -> bool:
        """True where `loss_and_text` gives a loss."""
        ...

    @property
    def writes_apart(self) -> bool:
        """True where writing a text costs more than its loss: it is written token by token."""
        ...

    def subset(self, depth: int | None = None) -> BlockSubset:
        """Return the blocks to run at `depth` (None: all): the ladder's, or evenly spaced ones without a ladder."""
        ...

    def cost(self, subset: Blocks) -> Cost:
        """Return parameters in use and multiply-accumulates per second of audio."""
        ...

    def transcribe(self, audio: Audio, depth: int | None = None, subset: BlockSubset | None = None) -> Transcript:
        """Return the transcript of a file or of samples, of any length: `answer` with the fields of a `Request`."""
        ...

    def answer(self, audio: Audio, request: Request) -> Transcript:
        """Return the transcript by the blocks or the constraint of `request`."""
        ...

    def recognize(self, batch: FeatureBatch, subset: Blocks, request: Request | None = None) -> list[str]:
        """Return the text of each utterance of a batch: greedy, or by the search of `request`."""
        ...

    def settled(self, request: Request, subset: Blocks | None = None) -> Request:
        """Return a request with the weights that were tuned for its language model at its depth, or at `subset`."""
        ...

    @property
    def pieces(self) -> Pieces:
        """The texts of a CTC model's tokens. Raises `UserError` for other models."""
        ...

    def log_probs(self, batch: FeatureBatch, subset: Blocks) -> list[NDArray[np.float32]]:
        """Return a CTC model's log-probabilities (T, V) of each utterance. Raises `UserError` for other models."""
        ...

    def loss(self, batch: FeatureBatch, subset: Blocks) -> float:
        """Return the loss of the transcripts summed over a batch's utterances (infinite without `has_loss`)."""
        ...

    def loss_and_text(self, batch: FeatureBatch, subset: Blocks) -> tuple[float, list[str]]:
        """Return the loss summed over a batch's utterances (infinite without `has_loss`), and their texts."""
        ...

    def pass_over(self, batch: FeatureBatch, subset: Blocks) -> Callable[[], object]:
        """Return a function that runs the network alone on a batch, and returns when the device has finished."""
        ...


# --------------------------------------------------------------------------------------------------------- windows


@dataclass(frozen=True)
class WindowResult:
    """The result of one window: the best token of each frame, and the chunk with the blocks and the reason.

    `logp_TV` are the log-probabilities of all tokens, for a beam search and for words.
    """

    frame_ids: Sequence[int]
    chunk: Chunk
    logp_TV: NDArray[np.float32] | None = None


Recognize = Callable[[NDArray[np.float32], float, float], WindowResult]
TakeFrames = Callable[[Window, NDArray[np.float32]], object]


def recognize_windows(
    audio: Audio, features: Features, recognize: Recognize, take: TakeFrames | None = None
) -> tuple[list[int], tuple[Chunk, ...], float]:
    """Return the best token of every frame of a file or of samples (S,) at 16 kHz, the chunks, the seconds of audio.

    `recognize(samples, start, end)` is called with each window's samples, context included, and the seconds of the
    stretch that counts. `take` gets each window, and the log-probabilities (T, V) of its frames that count. Raises
    `UserError` as `windows` does.
    """
    frame_ids: list[int] = []
    chunks: list[Chunk] = []
    n_samples = 0
    for window in windows(audio):
        start, end = n_samples / SAMPLE_RATE, (n_samples + window.n_kept) / SAMPLE_RATE
        result = recognize(window.samples, start, end)
        counted = window.n_before + window.n_kept
        # windows are cut at whole frames, so these divisions leave nothing over
        whole = counted == len(window.samples)
        last = len(result.frame_ids) if whole else counted // features.samples_per_frame
        kept = slice(window.n_before // features.samples_per_frame, last)
        frame_ids += result.frame_ids[kept]
        if take is not None:
            assert result.logp_TV is not None
            take(window, result.logp_TV[kept])
        chunks.append(result.chunk)
        n_samples += window.n_kept
    return frame_ids, tuple(chunks), max(n_samples, 1) / SAMPLE_RATE  # one sample at a higher rate resamples to none


# ---------------------------------------------------------------------------------------------------------- pieces


@dataclass(frozen=True)
class PieceResult:
    """The transcript that a decoder wrote of one piece, and the chunk with the blocks and the reason."""

    written: Written
    chunk: Chunk


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
    chunks = tuple(replace(result.chunk, cut=result.written.looped) for result in results)
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
        chunk = replace(result.chunk, cut=written.looped)
        return chunk, [] if written.is_silence else self._stamps.segments(written.tokens), written.spoken

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


def joined(texts: Iterable[str]) -> str:
    """Return the text of pieces that follow each other."""
    return " ".join(filter(None, texts))


def texts_of(batch: FeatureBatch, written: Sequence[Written], decode: Decode) -> list[str]:
    """Return the text of each utterance of a batch of log-mel; silence has none."""
    rows = zip(batch.inputs, batch.lengths_B.tolist(), written, strict=True)
    return ["" if is_silent(inputs_TF[:length]) else one.text(decode) for inputs_TF, length, one in rows]
