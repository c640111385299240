"""The features of Granite Speech's CTC model, without torch: log-mel and its differences, two frames stacked."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.kaldi_fbank import SHIFT, WINDOW, filter_energies, whole_windows
from layerdial.audio.nemo_fbank import hertz_matrices, triangles_in_hertz

_STACKED = 2
_FFT = 512
_LEAST, _RANGE = 1e-10, 8.0  # of energies, and of their decimal logarithms in an utterance


def log_mel(samples: NDArray[np.float32], n_mels: int) -> NDArray[np.float32]:
    """Return features (T, 4 n_mels) of samples (S,) at 16 kHz, of which there are 320 or more; T is S / 320, rounded up
    after S / 160 was rounded down.

    25 ms Hann windows every 10 ms, centred, the signal mirrored at its ends; two frames, each with its differences.
    """
    count = -(-(len(samples) // SHIFT) // _STACKED) * _STACKED
    filled = np.pad(np.asarray(samples, np.float32), (0, max(0, (count - 1) * SHIFT + 1 - len(samples))))
    frames = whole_windows(np.pad(filled, WINDOW // 2, mode="reflect"))[:count]
    log_TF = np.log10(np.maximum(filter_energies(frames, *_matrices(n_mels)), np.float32(_LEAST)))
    log_TF = np.maximum(log_TF, log_TF.max() - np.float32(_RANGE)) / np.float32(4.0) + np.float32(1.0)
    neighbours = np.pad(log_TF, ((1, 1), (0, 0)), mode="edge")
    differences_TF = (neighbours[2:] - neighbours[:-2]) / np.float32(2.0)
    stacked: NDArray[np.float32] = np.concatenate([log_TF, differences_TF], axis=1).reshape(count // _STACKED, -1)
    return stacked


@cache
def _matrices(n_mels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    highest = 2595.0 * np.log10(1.0 + SAMPLE_RATE / 2 / 700.0)  # HTK's mel scale
    edges = 700.0 * (10.0 ** (np.linspace(0.0, highest, n_mels + 2) / 2595.0) - 1.0)
    return hertz_matrices(window, triangles_in_hertz(edges, _FFT))
