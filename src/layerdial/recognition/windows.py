"""Audio of any length by overlapping windows, for networks that give a token for each frame.

Shapes: T frames, V vocabulary, S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.features import Features
from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.windows import Window, windows
from layerdial.recognizer import Audio
from layerdial.transcript import Chunk


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
