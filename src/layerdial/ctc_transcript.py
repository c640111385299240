"""The transcript of a CTC model: greedy or by beams, and the words and segments that a request asks for.

Shapes: S samples, T frames, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.features import Features
from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.pauses import Span, quiet_stretches
from layerdial.audio.windows import Window
from layerdial.recognizer import Audio, Decode, Recognize, recognize_windows
from layerdial.request import Request
from layerdial.text.ctc import greedy_ctc
from layerdial.text.ctc_spans import LabelSpan, LikelyFrames, aligned_spans, best_path_spans
from layerdial.text.token_rules import SpokenToken
from layerdial.text.token_words import words_of_texts
from layerdial.transcript import Transcribed, Word
from layerdial.word_places import placed, segments_of

if TYPE_CHECKING:
    from layerdial.text.ctc_beams import Pieces
    from layerdial.text.ctc_decoder import CtcDecoder


@dataclass(frozen=True)
class CtcUse:
    """How a CTC model is used for one request: the beam search, if it is not greedy; whether words, and segments.

    `pieces` are the texts of its tokens, where they are needed.
    """

    decoder: CtcDecoder | None = None
    pieces: Pieces | None = None
    words: bool = False
    segments: bool = False

    @classmethod
    def of(cls, request: Request, pieces: Callable[[], Pieces], model: str) -> CtcUse:
        """Return what a request asks of `model`. Raises `UserError` for what a CTC model cannot do."""
        request.refuse_decoder_options(model)
        if not (request.searches or request.words or request.timestamps):
            return cls()
        from layerdial.text.ctc_decoder import ctc_decoder  # much that a greedy request does not need

        own = pieces()
        return cls(ctc_decoder(request, own, model), own, bool(request.words), bool(request.timestamps))

    @property
    def needs_log_probs(self) -> bool:
        """Whether a window's log-probabilities are needed, and not its best tokens alone."""
        return self.pieces is not None


def transcribe_ctc(audio: Audio, features: Features, recognize: Recognize, decode: Decode, use: CtcUse) -> Transcribed:
    """Return the transcript of a file or of samples (S,) at 16 kHz of any length.

    `recognize` is called as by `recognize_windows`, and gives log-probabilities where `use` needs them. Raises
    `UserError` as `windows` does.
    """
    search = use.decoder.begin() if use.decoder else None
    times = _Times(greedy=search is None) if use.words or use.segments else None

    def take(window: Window, logp_TV: NDArray[np.float32]) -> None:
        if search is not None:
            search.feed(logp_TV)
        if times is not None:
            times.take(window, logp_TV)

    ids, chunks, seconds = recognize_windows(audio, features, recognize, take if use.needs_log_probs else None)
    labels = search.finish() if search else greedy_ctc(ids)
    made = Transcribed(decode(labels), chunks, seconds)
    if times is None or use.pieces is None:
        return made
    spans = times.spans(ids, labels)
    words = placed(_spoken(spans, use.pieces, features.samples_per_frame), times.quiet, seconds)
    segments = segments_of(words) if use.segments else ()
    return replace(made, segments=segments, words=tuple(words) if use.words else ())


def _spoken(spans: Sequence[LabelSpan], pieces: Pieces, samples_per_frame: int) -> list[Word]:
    """Return the words of labels, from the first frame that emits them to the last."""
    frame = samples_per_frame / SAMPLE_RATE
    spoken = [SpokenToken(span.first * frame, span.end * frame, span.logp) for span in spans]
    return words_of_texts([pieces.texts[span.label] for span in spans], spoken)


class _Times:
    """What words need besides their labels, noted window by window: how sure each frame is, and where it is quiet."""

    def __init__(self, greedy: bool) -> None:
        self._best: list[NDArray[np.float32]] = []
        self._likely = None if greedy else LikelyFrames()
        self._n_samples = 0
        self.quiet: list[Span] = []

    def take(self, window: Window, logp_TV: NDArray[np.float32]) -> None:
        """Note the frames (T, V) of a window that count, and its pauses."""
        if self._likely is None:
            self._best.append(logp_TV.max(axis=1, initial=-np.inf))
        else:
            self._likely.feed(logp_TV)
        self._add_pauses(window)
        self._n_samples += window.n_kept

    def _add_pauses(self, window: Window) -> None:
        """Add the pauses of what counts of a window. They are found with its context: one may lie across a seam."""
        begin, before = self._n_samples / SAMPLE_RATE, window.n_before / SAMPLE_RATE
        end = begin + window.n_kept / SAMPLE_RATE
        for first, last in quiet_stretches(window.samples):
            first, last = max(begin, begin + first - before), min(end, begin + last - before)
            if self.quiet and first <= self.quiet[-1][1]:
                self.quiet[-1] = self.quiet[-1][0], max(last, self.quiet[-1][1])
            elif first < last:
                self.quiet.append((first, last))

    def spans(self, frame_ids: Sequence[int], labels: Sequence[int]) -> list[LabelSpan]:
        """Return the frames of each label: of the best path, or of the most probable path of what beams have found."""
        if self._likely is None:
            return best_path_spans(frame_ids, np.concatenate(self._best))
        return aligned_spans(labels, self._likely)
