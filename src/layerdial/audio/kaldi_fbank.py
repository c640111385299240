"""Kaldi's log-mel filterbank as two matrix products, computed by ONNX Runtime.

Everything before the squares is linear. Removal of the mean, pre-emphasis, window and Fourier transform are one matrix
(400 samples x 2 x 243 bins), the mel filters another. On a CPU a product of that size is several times as fast as a
transform frame by frame. `kaldi-native-fbank`, with the settings that lhotse and sherpa-onnx share, gives the same to
four decimals; the tests compare with it.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE

N_MELS = 80
SHIFT = 160
WINDOW = 400
BEFORE = WINDOW // 2 - SHIFT // 2  # samples of a frame's window before its shift
_FFT = 512
_LOW_HZ, _HIGH_HZ = 20.0, SAMPLE_RATE / 2 - 400.0
_PREEMPHASIS = 0.97
GRAPH = Path(__file__).with_name("kaldi_fbank.onnx")  # tests/audio/test_features.py shows how it is made


def num_frames(n_samples: int) -> int:
    """Return the number of frames that `log_mel` makes of `n_samples` samples: one a shift, rounded."""
    return (n_samples + SHIFT // 2) // SHIFT


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the log-mel energies (num_frames(S), 80) of samples (S,) at 16 kHz in [-1, 1]; S at least one shift.

    25 ms windows every 10 ms, centred, the signal mirrored at its ends; Povey window, pre-emphasis 0.97, no dither.
    """
    return log_mel_of_windows(_frames(samples))


def log_mel_of_windows(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the log-mel energies (T, 80) of the windows of frames (T, 400)."""
    return _run("log_mel", frames, *fbank_matrices())


def filter_energies(
    frames: NDArray[np.float32], spectrum: NDArray[np.float32], mel: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return (frames @ spectrum)^2 @ mel: (T, window), (window, 2K), (2K, F) -> (T, F)."""
    return _run("energies", frames, spectrum, mel)


def _run(
    output: str, frames: NDArray[np.float32], spectrum: NDArray[np.float32], mel: NDArray[np.float32]
) -> NDArray[np.float32]:
    found: NDArray[np.float32] = _session(os.getpid()).run(
        [output], {"frames": frames, "spectrum": spectrum, "mel": mel}
    )[0]
    return found


def _frames(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the window of each frame: (T, 400)."""
    count = num_frames(len(samples))
    after = max(0, (count - 1) * SHIFT + WINDOW - BEFORE - len(samples))
    padded = np.pad(np.asarray(samples, np.float32), (BEFORE, after), mode="symmetric")
    return whole_windows(padded)[:count]


def whole_windows(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the windows every 10 ms that lie in the samples (S,) as a whole: (T, 400)."""
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(samples, np.float32), WINDOW)[::SHIFT]
    return np.ascontiguousarray(windows)


@cache
def fbank_matrices() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the matrices of `log_mel`, as `kaldi_matrices` does."""
    return kaldi_matrices(_HIGH_HZ)


def kaldi_matrices(high_hz: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return Kaldi's matrices as `matrices` does, 80 mel bins from 20 Hz to `high_hz`."""
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / (WINDOW - 1))) ** 0.85
    without_mean = np.eye(WINDOW) - 1.0 / WINDOW
    emphasised = np.eye(WINDOW) - _PREEMPHASIS * np.eye(WINDOW, k=1)
    emphasised[0, 0] -= _PREEMPHASIS  # the first sample counts as its own predecessor
    return matrices(without_mean @ emphasised * window, _LOW_HZ, high_hz, N_MELS)


def matrices(
    before_transform: NDArray[np.float64], low_hz: float, high_hz: float, n_mels: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the matrix from a window to its spectrum (400, 2K), and from its squares to mel energies (2K, n_mels).

    The spectrum is real parts, then imaginary parts; `before_transform` (400, 400) is what comes before it.
    """
    hertz = np.arange(_FFT // 2) * SAMPLE_RATE / _FFT  # Kaldi leaves the Nyquist bin out
    filters = _mel_filters(hertz, low_hz, high_hz, n_mels)
    used = np.flatnonzero(filters.sum(axis=1))
    angle = 2 * np.pi / _FFT * np.outer(np.arange(WINDOW), used)
    spectrum = before_transform @ np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    return spectrum.astype(np.float32), np.concatenate([filters[used]] * 2).astype(np.float32)


def _mel_filters(hertz: NDArray[np.float64], low_hz: float, high_hz: float, n_mels: int) -> NDArray[np.float64]:
    """Return filters (bins, n_mels) that are triangles on the mel scale."""
    edges = np.linspace(_mel(low_hz), _mel(high_hz), n_mels + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    at = _mel(hertz)[:, None]
    filters: NDArray[np.float64] = np.minimum((at - left) / (centre - left), (right - at) / (right - centre))
    return np.maximum(filters, 0.0)


def _mel(hertz: Any) -> Any:
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)


@cache
def _session(process: int) -> Any:
    """Return the ONNX Runtime session of a process: data workers are forks, and each needs its own."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(GRAPH.read_bytes(), options, providers=["CPUExecutionProvider"])
