"""Noise: coloured, of any length, a pure function of its generator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE


def coloured_noise(n_samples: int, slope: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return Gaussian noise (n_samples,) of power 1 whose power spectrum falls as 1 / f^slope.

    Slope 0 is white, 1 is pink.
    """
    size = 1 << (n_samples - 1).bit_length()  # powers of two are fast to transform
    spectrum = np.fft.rfft(rng.standard_normal(size, dtype=np.float32))
    bins = np.maximum(np.arange(len(spectrum), dtype=np.float32), size * 50 / SAMPLE_RATE)  # flat below 50 Hz
    noise = np.fft.irfft(spectrum * bins ** np.float32(-slope / 2), size)[:n_samples]
    scaled: NDArray[np.float32] = (noise / np.sqrt(np.mean(np.square(noise)))).astype(np.float32)
    return scaled


def rms(samples: NDArray[np.float32]) -> float:
    """Return the root of the mean square of samples (S,); 0 for none."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0
