"""Mel filters on Slaney's scale, linear below 1 kHz and logarithmic above, as librosa, NeMo and Whisper have them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE

_BREAK_HERTZ, _HERTZ_A_MEL, _LOG_STEP = 1000.0, 200.0 / 3.0, np.log(6.4) / 27.0


def mel_filters(n_fft: int, n_mels: int) -> NDArray[np.float64]:
    """Return filters (n_fft // 2 + 1, n_mels) that are triangles in hertz, of equal area, up to Nyquist."""
    hertz = np.arange(n_fft // 2 + 1)[:, None] * SAMPLE_RATE / n_fft
    edges = _to_hertz(np.linspace(0.0, _to_mel(SAMPLE_RATE / 2), n_mels + 2))
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.minimum((hertz - left) / (centre - left), (right - hertz) / (right - centre))
    filters: NDArray[np.float64] = np.maximum(triangles, 0.0) * 2.0 / (right - left)
    return filters


def _to_mel(hertz: float) -> float:
    return float(_BREAK_HERTZ / _HERTZ_A_MEL + np.log(hertz / _BREAK_HERTZ) / _LOG_STEP)


def _to_hertz(mel: Any) -> Any:
    at_break = _BREAK_HERTZ / _HERTZ_A_MEL
    return np.where(mel < at_break, mel * _HERTZ_A_MEL, _BREAK_HERTZ * np.exp(_LOG_STEP * (mel - at_break)))
