"""The log-mel features of LASR (MedASR), without torch: as transformers' extractor makes them."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.kaldi_fbank import WINDOW, filter_energies, matrices, whole_windows

_LOW_HZ, _HIGH_HZ = 125.0, 7500.0
_LEAST = 1e-5  # of energies


def log_mel(samples: NDArray[np.float32], n_mels: int) -> NDArray[np.float32]:
    """Return log-mel features (T, n_mels) of samples (S,) at 16 kHz, one for each whole Hann window of 25 ms."""
    energies_TF = filter_energies(whole_windows(samples), *_matrices(n_mels))
    logarithms: NDArray[np.float32] = np.log(np.maximum(energies_TF, np.float32(_LEAST)))
    return logarithms


@cache
def _matrices(n_mels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / (WINDOW - 1))
    return matrices(np.diag(window), _LOW_HZ, _HIGH_HZ, n_mels)
