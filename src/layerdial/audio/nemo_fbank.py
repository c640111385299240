"""The log-mel features of NVIDIA's NeMo, which Parakeet takes, without torch: as transformers' extractor makes them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.kaldi_fbank import SHIFT, WINDOW, filter_energies

_FFT = 512
_PREEMPHASIS = 0.97
_LOG_FLOOR, _STD_FLOOR = 2.0**-24, 1e-5
_BREAK_HERTZ, _HERTZ_A_MEL, _LOG_STEP = 1000.0, 200.0 / 3.0, np.log(6.4) / 27.0  # Slaney's mel scale


def log_mel(samples: NDArray[np.float32], n_mels: int) -> NDArray[np.float32]:
    """Return log-mel features (S // 160, n_mels) of samples (S,) at 16 kHz, of which there are 320 or more.

    Each bin has zero mean and unit variance over the utterance. 25 ms Hann windows every 10 ms, centred, silence beyond
    the ends.
    """
    signal = np.asarray(samples, np.float32)
    emphasised = np.concatenate([signal[:1], signal[1:] - np.float32(_PREEMPHASIS) * signal[:-1]])
    padded = np.pad(emphasised, WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::SHIFT][: len(signal) // SHIFT]
    energies_TF = filter_energies(np.ascontiguousarray(frames), *_matrices(n_mels))
    features_TF = np.log(energies_TF + np.float32(_LOG_FLOOR))
    centred_TF = features_TF - features_TF.mean(axis=0)
    normalised: NDArray[np.float32] = centred_TF / (centred_TF.std(axis=0, ddof=1) + np.float32(_STD_FLOOR))
    return normalised


@cache
def _matrices(n_mels: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the matrix from a window to its spectrum (400, 2K), and from its squares to mel energies (2K, n_mels).

    The spectrum is real parts, then imaginary parts.
    """
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / (WINDOW - 1))
    return hertz_matrices(window, slaney_filters(n_mels, _FFT))


def hertz_matrices(
    window: NDArray[np.float64], filters: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the matrices of `_matrices` for a window (400,) and mel filters (257, n_mels)."""
    angle = 2 * np.pi / _FFT * np.outer(np.arange(WINDOW), np.arange(_FFT // 2 + 1))
    spectrum = window[:, None] * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    return spectrum.astype(np.float32), np.concatenate([filters] * 2).astype(np.float32)


def slaney_filters(n_mels: int, fft: int) -> NDArray[np.float64]:
    """Return filters (fft / 2 + 1, n_mels) that are triangles in hertz, of equal area, evenly spaced on Slaney's scale.

    They are those of librosa's default, which NeMo and Whisper use.
    """
    edges = _to_hertz(np.linspace(0.0, _to_mel(SAMPLE_RATE / 2), n_mels + 2))
    filters: NDArray[np.float64] = triangles_in_hertz(edges, fft) * 2.0 / (edges[2:] - edges[:-2])
    return filters


def triangles_in_hertz(edges: NDArray[np.float64], fft: int) -> NDArray[np.float64]:
    """Return filters (fft / 2 + 1, n_mels) of height one, each from an edge (n_mels + 2,) to the next but one."""
    hertz = np.arange(fft // 2 + 1)[:, None] * SAMPLE_RATE / fft
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising_or_falling = np.minimum((hertz - left) / (centre - left), (right - hertz) / (right - centre))
    filters: NDArray[np.float64] = np.maximum(rising_or_falling, 0.0)
    return filters


def _to_mel(hertz: float) -> float:
    return float(_BREAK_HERTZ / _HERTZ_A_MEL + np.log(hertz / _BREAK_HERTZ) / _LOG_STEP)


def _to_hertz(mel: Any) -> Any:
    at_break = _BREAK_HERTZ / _HERTZ_A_MEL
    return np.where(mel < at_break, mel * _HERTZ_A_MEL, _BREAK_HERTZ * np.exp(_LOG_STEP * (mel - at_break)))
