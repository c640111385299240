"""The features of wav2vec2-BERT, of SeamlessM4T's kind: Kaldi's log-mel, two frames stacked, without torch."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.kaldi_fbank import filter_energies, kaldi_matrices, whole_windows

N_MELS = 80
_STACKED = 2
_LEAST = 1.192092955078125e-07  # of energies, of samples as whole numbers of 16 bits
_OF_16_BITS = 2.0**15


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return features (T, 160) of samples (S,) at 16 kHz; T is half the number of whole windows, which are two or more.

    Each of the 80 bins has zero mean and unit variance over the utterance. 25 ms windows every 10 ms.
    """
    energies_TF = filter_energies(whole_windows(samples * np.float32(_OF_16_BITS)), *_matrices())
    log_TF = np.log(np.maximum(energies_TF, np.float32(_LEAST)))
    normalised_TF = (log_TF - log_TF.mean(axis=0)) / np.sqrt(log_TF.var(axis=0, ddof=1) + np.float32(1e-7))
    stacked: NDArray[np.float32] = normalised_TF[: len(log_TF) // _STACKED * _STACKED].reshape(-1, _STACKED * N_MELS)
    return stacked


@cache
def _matrices() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return kaldi_matrices(SAMPLE_RATE / 2)
