"""Log-mel of audio that comes in parts: each frame as soon as its samples are there.

Shapes: S samples, T frames, F mel bins.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.features import fbank
from layerdial.audio.held import HeldSamples
from layerdial.audio.kaldi_fbank import BEFORE, N_MELS, SHIFT, WINDOW, log_mel_of_windows, num_frames, whole_windows

_REACH = WINDOW - BEFORE  # samples of a frame from the begin of its shift on


class StreamedMel:
    """The frames of `fbank`, of samples at 16 kHz that come in parts. What is held does not grow.

    Frames are computed as many at a time as are asked for, so that how the samples are split changes no bit of them.
    """

    def __init__(self) -> None:
        self._held = HeldSamples()
        self._taken = 0  # frames

    @property
    def n_samples(self) -> int:
        """The number of samples that came."""
        return self._held.end

    @property
    def ready(self) -> int:
        """The number of frames that are whole and were not taken yet."""
        return max(0, (self._held.end - _REACH) // SHIFT + 1 - self._taken)

    def feed(self, samples: NDArray[np.float32]) -> None:
        """Take the next samples (S,)."""
        self._held.append(samples)

    def take(self, count: int) -> NDArray[np.float32]:
        """Return the next `count` frames (count, F), which must be ready."""
        assert 0 < count <= self.ready
        found = self._frames(count, self._held.between(self._begin(), self._begin() + (count - 1) * SHIFT + WINDOW))
        self._held.forget(self._begin())
        return found

    def rest(self) -> NDArray[np.float32]:
        """Return the frames that are left where the audio ends (T, F); of no samples there are none."""
        count, n_samples = num_frames(self.n_samples) - self._taken, self.n_samples
        if not self._taken:
            return fbank(self._held.between(0, n_samples)) if n_samples else np.zeros((0, N_MELS), np.float32)
        if not count:
            return np.zeros((0, N_MELS), np.float32)
        samples = self._held.between(self._begin(), n_samples)
        missing = max(0, (count - 1) * SHIFT + WINDOW - len(samples))
        return self._frames(count, np.concatenate([samples, samples[::-1][:missing]]))

    def _begin(self) -> int:
        """Return the first sample of the next frame; the first frame begins before the audio does."""
        return self._taken * SHIFT - BEFORE

    def _frames(self, count: int, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the next frames, of samples from the begin of the first of them on."""
        if not self._taken:
            samples = np.concatenate([samples[:BEFORE][::-1], samples])  # the audio is mirrored where it begins
        self._taken += count
        return log_mel_of_windows(whole_windows(samples)[:count])
