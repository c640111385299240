"""How long after the end of a word its text is there, from cuts whose words have known times.

The times are lhotse's alignment "word" of a cut's supervisions. A label is there as soon as the chunk of its frame has
been heard, so a delay holds the wait for the rest of the chunk. The network's own computing time is not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.kaldi_fbank import SHIFT, WINDOW
from layerdial.evaluation.evaluate import Evaluation, evaluate
from layerdial.recognizer import FeatureBatch, Recognizer
from layerdial.request import Request
from layerdial.subset import Blocks, ChunkSchedule
from layerdial.text.ctc import greedy_ctc
from layerdial.text.ctc_beams import Pieces
from layerdial.text.ctc_spans import best_path_spans
from layerdial.text.normalise import normalise
from layerdial.text.normalisers import Normalizer
from layerdial.text.token_rules import SpokenToken
from layerdial.text.token_words import words_of_texts
from layerdial.utils.rows import Row

if TYPE_CHECKING:
    from layerdial.models.torch_recognizer import TorchRecognizer

_BEHIND = (WINDOW - SHIFT) // 2 / SAMPLE_RATE  # seconds that the window of a centred frame reaches beyond it


@dataclass(frozen=True)
class KnownWord:
    """A word that was spoken, and when: seconds from the beginning of the cut. Not all words have an end."""

    text: str
    end: float | None


Known = Mapping[str, Sequence[KnownWord]]
"""The words of cuts, by their ids."""


def known_words(cuts: Path) -> dict[str, list[KnownWord]]:
    """Return the words of the cuts that have times. Raises `UserError` for a file that is no manifest of cuts."""
    from layerdial.data.manifest import open_cuts

    found: dict[str, list[KnownWord]] = {}
    for cut in open_cuts(cuts):
        items = [item for said in cut.supervisions for item in (said.alignment or {}).get("word", ())]
        words = [word for item in sorted(items, key=lambda item: item.start) for word in _words(item.symbol, item.end)]
        if words:
            found[str(cut.id)] = words
    return found


def _words(symbol: str, end: float) -> list[KnownWord]:
    """Return the words of an aligned symbol. Where they are several, only the last one's end is known."""
    *before, last = normalise(symbol).split() or [""]
    return [KnownWord(word, None) for word in before] + ([KnownWord(last, end)] if last else [])


class DelayNotes:
    """A CTC recogniser that notes, while it recognises, how long after its end each word is there, in seconds."""

    def __init__(self, recognizer: TorchRecognizer, known: Known) -> None:
        self._recognizer, self._known = recognizer, known
        self._frame = recognizer.features.samples_per_frame / SAMPLE_RATE
        self.delays: list[float] = []

    def recognize(self, batch: FeatureBatch, subset: Blocks, request: Request | None = None) -> list[str]:
        """Return the text of each utterance of a batch by a greedy search."""
        texts: list[str] = []
        for name, logp_TV in zip(batch.ids, self._recognizer.log_probs(batch, subset), strict=True):
            texts.append(self._recognizer.tokenizer.decode(greedy_ctc(logp_TV.argmax(axis=1).tolist())))
            ends_T = chunk_ends(subset, len(logp_TV)) * self._frame + _BEHIND
            emitted = emitted_words(logp_TV, self._recognizer.pieces)
            self.delays += _delays(emitted, ends_T, self._known.get(name, ()))
        return texts

    def row(self) -> Row:
        """Return the median and the 95th percentile of the delays in milliseconds, and of how many words they are."""
        if not self.delays:
            return {"delay_ms": None, "delay_ms_95": None, "delay_words": 0}
        middle, high = (round(1000 * float(value), 1) for value in np.quantile(self.delays, [0.5, 0.95]))
        return {"delay_ms": middle, "delay_ms_95": high, "delay_words": len(self.delays)}


def evaluate_with_delay(
    recognizer: Recognizer, batches: Iterable[FeatureBatch], blocks: Blocks, known: Known, normalizer: Normalizer
) -> tuple[Evaluation, Row]:
    """Return what a greedy search finds, as `evaluate` does, and how long after its end a known word is there."""
    from layerdial.models.torch_recognizer import TorchRecognizer

    if not known or not isinstance(recognizer, TorchRecognizer):
        return evaluate(recognizer, batches, blocks, normalizer), {}
    notes = DelayNotes(recognizer, known)
    return evaluate(notes, batches, blocks, normalizer), notes.row()


def chunk_ends(blocks: Blocks, n_frames: int) -> NDArray[np.int64]:
    """Return for each frame (T,) the number of frames that are heard when its chunk is: all, without chunks."""
    if not isinstance(blocks, ChunkSchedule):
        return np.full(n_frames, n_frames)
    return np.concatenate([np.full(end - first, end) for first, end, _ in blocks.chunks(n_frames)])


def emitted_words(logp_TV: NDArray[np.float32], pieces: Pieces) -> list[tuple[str, int]]:
    """Return the words of the best path of frames (T, V), and the frame in which the last label of each begins."""
    spans = best_path_spans(logp_TV.argmax(axis=1).tolist(), logp_TV.max(axis=1))
    spoken = [SpokenToken(span.first, span.first, 0.0) for span in spans]
    words = words_of_texts([pieces.texts[span.label] for span in spans], spoken)
    return [(normalise(word.text), int(word.end)) for word in words]


def _delays(
    emitted: Sequence[tuple[str, int]], ends_T: NDArray[np.floating[Any]], known: Sequence[KnownWord]
) -> list[float]:
    """Return the delays of the known words that the smallest edit distance aligns with an equal one."""
    pairs = aligned([word.text for word in known], [text for text, _ in emitted])
    both = [(known[i], *emitted[j]) for i, j in pairs if i is not None and j is not None]
    return [float(ends_T[frame]) - word.end for word, text, frame in both if word.text == text and word.end is not None]


def aligned(reference: Sequence[str], hypothesis: Sequence[str]) -> list[tuple[int | None, int | None]]:
    """Return the places of words that stand for each other at the smallest edit distance; none where one is missing."""
    import jiwer

    if not reference or not hypothesis:
        return [(i, None) for i in range(len(reference))] + [(None, j) for j in range(len(hypothesis))]
    (chunks,) = jiwer.process_words(" ".join(reference), " ".join(hypothesis)).alignments
    found: list[tuple[int | None, int | None]] = []
    for chunk in chunks:
        rows: list[int | None] = list(range(chunk.ref_start_idx, chunk.ref_end_idx))
        columns: list[int | None] = list(range(chunk.hyp_start_idx, chunk.hyp_end_idx))
        longest = max(len(rows), len(columns))
        found += zip(rows + [None] * (longest - len(rows)), columns + [None] * (longest - len(columns)), strict=True)
    return found
