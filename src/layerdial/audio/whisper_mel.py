"""Whisper's log-mel features (Radford et al. 2022), for audio of any length, without torch.

The frames of audio are the first frames of the same audio padded with silence to 30 s, and all of them that hold any of
its samples. So silence can be added later, to the features: all of it has the value `silence`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.kaldi_fbank import SHIFT, WINDOW, filter_energies
from layerdial.audio.nemo_fbank import slaney_filters
from layerdial.errors import UserError

WINDOW_FRAMES = 3000  # 30 s, the only length that published checkpoints were trained on
Values = Any  # an array or a tensor
_LEAST, _RANGE = 1e-10, 8.0  # of energies, and of their decimal logarithms in an utterance
_QUIETEST = -0.6  # in log-mel: an energy of 10^-6.4


def log_mel(samples: NDArray[np.float32], n_mels: int) -> NDArray[np.float32]:
    """Return log-mel features (T, n_mels) of samples (S,) at 16 kHz; T is `num_frames(S)`.

    25 ms Hann windows every 10 ms, centred; the signal is mirrored at its start and followed by silence.
    """
    signal = np.asarray(samples, np.float32)
    count = num_frames(len(signal))
    followed = np.pad(signal, (0, WINDOW))
    padded = np.pad(followed, (WINDOW // 2, 0), mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::SHIFT][:count]
    energies_TF = filter_energies(np.ascontiguousarray(frames), *whisper_matrices(n_mels))
    log_TF = np.log10(np.maximum(energies_TF, np.float32(_LEAST)))
    log_TF = np.maximum(log_TF, log_TF.max() - np.float32(_RANGE))
    scaled: NDArray[np.float32] = (log_TF + np.float32(4.0)) / np.float32(4.0)
    return scaled


def num_frames(n_samples: int) -> int:
    """Return how many frames hold any of `n_samples` samples; 30 s have the 3000 that they have as padded audio."""
    touched = -(-(n_samples + WINDOW // 2) // SHIFT)
    return min(touched, WINDOW_FRAMES) if n_samples <= WINDOW_FRAMES * SHIFT else touched


def silence(loudest: Values) -> Values:
    """Return the value of silence in the features of an utterance, of which `loudest` is the largest."""
    return (loudest - _RANGE / 4.0).clip((np.log10(_LEAST) + 4.0) / 4.0)


def check_length(n_frames: int, longest: int) -> None:
    """Raise `UserError` for log-mel of more frames than the encoder has positions for."""
    if n_frames > longest:
        raise UserError(f"{n_frames} frames of log-mel; the encoder takes up to {longest}, of 10 ms")


def is_silent(inputs_TF: NDArray[np.float32]) -> bool:
    """Return whether log-mel is that of silence, or of noise that nobody hears."""
    return bool(inputs_TF.max() < _QUIETEST)


def pad_with_silence(inputs_TF: NDArray[np.float32], n_frames: int) -> NDArray[np.float32]:
    """Return log-mel (n_frames, F) of an utterance followed by silence, as of padded audio."""
    padded = np.full((n_frames, inputs_TF.shape[1]), silence(inputs_TF.max()), np.float32)
    padded[: len(inputs_TF)] = inputs_TF
    return padded


@cache
def whisper_matrices(n_mels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the matrix from a window to its spectrum (400, 2K), and from its squares to mel energies (2K, n_mels).

    The spectrum is real parts, then imaginary parts.
    """
    angle = 2 * np.pi / WINDOW * np.outer(np.arange(WINDOW), np.arange(WINDOW // 2 + 1))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    spectrum = window[:, None] * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    filters = slaney_filters(n_mels, WINDOW)
    return spectrum.astype(np.float32), np.concatenate([filters] * 2).astype(np.float32)
