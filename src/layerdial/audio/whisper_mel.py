"""The log-mel features of OpenAI's Whisper, without torch: as transformers' WhisperFeatureExtractor makes them.

The audio need not be padded to 30 s. All frames but the last two are the same either way: the floor, 80 dB below the
loudest bin, does not depend on silence.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.kaldi_fbank import SHIFT, WINDOW, filter_energies
from layerdial.audio.slaney_mel import mel_filters

FULL_SECONDS = 30  # of the input that Whisper was trained with
FULL_SAMPLES = FULL_SECONDS * SAMPLE_RATE
FEWEST_SAMPLES = WINDOW
_FLOOR, _RANGE = 1e-10, 8.0  # of energies; in powers of ten


def log_mel(samples: NDArray[np.float32], n_mels: int) -> NDArray[np.float32]:
    """Return log-mel features (S // 160, n_mels) of samples (S,) at 16 kHz in [-1, 1]; S at least `FEWEST_SAMPLES`.

    25 ms Hann windows every 10 ms, centred, the signal mirrored at its ends.
    """
    padded = np.pad(np.asarray(samples, np.float32), WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::SHIFT][: len(samples) // SHIFT]
    energies_TF = filter_energies(np.ascontiguousarray(frames), *_matrices(n_mels))
    powers_TF = np.log10(np.maximum(energies_TF, np.float32(_FLOOR)))
    features: NDArray[np.float32] = (np.maximum(powers_TF, powers_TF.max() - np.float32(_RANGE)) + 4) / 4
    return features


def pad_to_full(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the first 30 s of samples (S,), padded with silence to 30 s: (480000,)."""
    cut = samples[:FULL_SAMPLES]
    return np.pad(cut, (0, FULL_SAMPLES - len(cut)))


@cache
def _matrices(n_mels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the matrix from a window to its spectrum (400, 2K), and from its squares to mel energies (2K, n_mels).

    The spectrum is real parts, then imaginary parts.
    """
    angle = 2 * np.pi / WINDOW * np.outer(np.arange(WINDOW), np.arange(WINDOW // 2 + 1))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    spectrum = window[:, None] * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    filters = mel_filters(WINDOW, n_mels)
    return spectrum.astype(np.float32), np.concatenate([filters] * 2).astype(np.float32)
