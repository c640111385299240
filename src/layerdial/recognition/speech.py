"""Recognition of what is speech alone: pauses are found first, and cost no pass of the network.

Shapes: S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.utterances import Pauses, Segmenter, Stretch
from layerdial.audio.windows import mono_blocks
from layerdial.recognizer import Audio
from layerdial.transcript import Transcribed, joined, later

PIECES = Pauses(silence=1.0, longest=16.0)
"""How recordings are cut. Shorter pauses stay within a piece; memory grows with the longest one."""


@dataclass(frozen=True)
class Piece:
    """A stretch of speech: samples (S,) at 16 kHz that begin at second `begin`, `pause` seconds behind the last."""

    samples: NDArray[np.float32]
    begin: float
    pause: float


def transcribe_speech(audio: Audio, transcribe: Callable[[Piece], Transcribed]) -> Transcribed:
    """Return the transcript of the speech in audio of any length, with the times of the recording.

    `transcribe` gets each piece of at most 16 s, and gives it times from its begin on. Each is a text by itself: beam
    searches begin anew. Raises `UserError` as `windows` does.
    """
    found, n_samples, n_done = list[Transcribed](), 0, 0
    segmenter = Segmenter(PIECES)

    def take(stretches: Iterable[Stretch]) -> None:
        nonlocal n_done
        for stretch in stretches:
            begin, pause = stretch.start / SAMPLE_RATE, (stretch.start - n_done) / SAMPLE_RATE
            found.append(_later(transcribe(Piece(stretch.samples, begin, pause)), begin))
            n_done = stretch.end

    for block in mono_blocks(audio):
        n_samples += len(block)
        take(segmenter.feed(block))
    take(segmenter.finish())
    return _whole(found, max(n_samples, 1) / SAMPLE_RATE)


def _whole(found: Iterable[Transcribed], seconds: float) -> Transcribed:
    """Return the transcript of a recording by those of its pieces."""
    parts = tuple(found)
    return Transcribed(
        joined(part.text for part in parts),
        tuple(chunk for part in parts for chunk in part.chunks),
        seconds,
        tuple(segment for part in parts for segment in part.segments),
        tuple(word for part in parts for word in part.words),
    )


def _later(made: Transcribed, begin: float) -> Transcribed:
    """Return a transcript whose audio begins at a second of the recording."""
    chunks, segments = later(made.chunks, begin), later(made.segments, begin)
    return replace(made, chunks=chunks, segments=segments, words=later(made.words, begin))
