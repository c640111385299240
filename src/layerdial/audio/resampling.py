"""Audio that comes in parts, resampled to 16 kHz.

Shapes: S samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE, to_target_rate


class Resampler:
    """Samples at `rate` Hz that come in parts, at 16 kHz (soxr, high quality); how they are split changes nothing."""

    def __init__(self, rate: int) -> None:
        self._stream: Any = None
        if rate != SAMPLE_RATE:
            import soxr

            to_target_rate(np.zeros(0, dtype=np.float32), rate)  # logs the resampling, once
            self._stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")

    def feed(self, samples: NDArray[np.float32], last: bool = False) -> NDArray[np.float32]:
        """Return what the next samples (S,) bring; `last`: all that is still held too."""
        if self._stream is None:
            return samples
        found: NDArray[np.float32] = self._stream.resample_chunk(samples, last=last)
        return found
