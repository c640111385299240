"""Synthetic speech of a few words, with pauses around; a test skips where espeak-ng is missing."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from layerdial.audio.noise import rms

RATE = 16000
Floats = NDArray[np.float32]


@cache
def spoken(text: str, voice: str = "en+m3") -> Floats:
    """`text` as samples (S,) at 16 kHz."""
    espeak = pytest.importorskip("layerdial.data.synthesis.espeak")
    pytest.importorskip("espeakng_loader")
    samples = espeak.speak(text, voice)
    found: Floats = 0.1 * soxr.resample(samples / rms(samples), espeak.SAMPLE_RATE, RATE).astype(np.float32)
    return found


def hush(seconds: float, seed: int = 0) -> Floats:
    """A quiet room: faint noise (S,)."""
    return (1e-4 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def with_pauses(*texts: str, pause: float = 1.0) -> Floats:
    """The texts one after the other (S,), with a pause around each."""
    return np.concatenate([hush(pause), *(part for text in texts for part in (spoken(text), hush(pause, len(text))))])
