"""The words and segments of a CTC model, from the labels of its frames and the pauses of the audio.

Shapes: T frames, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.pauses import Span, quiet_stretches
from layerdial.audio.windows import Window
from layerdial.recognition.word_places import placed
from layerdial.text.ctc_beams import Pieces
from layerdial.text.ctc_spans import LabelSpan, LikelyFrames, aligned_spans, best_path_spans
from layerdial.text.token_rules import SpokenToken
from layerdial.text.token_words import words_of_texts
from layerdial.transcript import Word


class CtcTimes:
    """What words need besides their labels, noted window by window: how sure each frame is, and where it is quiet."""

    def __init__(self, greedy: bool) -> None:
        self._best: list[NDArray[np.float32]] = []
        self._likely = None if greedy else LikelyFrames()
        self._n_samples = 0
        self._quiet: list[Span] = []

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
            if self._quiet and first <= self._quiet[-1][1]:
                self._quiet[-1] = self._quiet[-1][0], max(last, self._quiet[-1][1])
            elif first < last:
                self._quiet.append((first, last))

    def words(
        self, frame_ids: Sequence[int], labels: Sequence[int], pieces: Pieces, samples_per_frame: int, seconds: float
    ) -> list[Word]:
        """Return the words of labels in audio of so many seconds, whose best tokens are `frame_ids`."""
        return placed(spoken_words(self._spans(frame_ids, labels), pieces, samples_per_frame), self._quiet, seconds)

    def _spans(self, frame_ids: Sequence[int], labels: Sequence[int]) -> list[LabelSpan]:
        """Return the frames of each label: of the best path, or of the most probable path of what beams have found."""
        if self._likely is None:
            return best_path_spans(frame_ids, np.concatenate(self._best))
        return aligned_spans(labels, self._likely)


def spoken_words(spans: Sequence[LabelSpan], pieces: Pieces, samples_per_frame: int) -> list[Word]:
    """Return the words of labels, from the first frame that emits them to the last."""
    frame = samples_per_frame / SAMPLE_RATE
    spoken = [SpokenToken(span.first * frame, span.end * frame, span.logp) for span in spans]
    return words_of_texts([pieces.texts[span.label] for span in spans], spoken)
