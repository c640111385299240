"""Speech of espeak-ng with pauses, for tests of what tells speech from the rest: tones are none."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from layerdial.audio.noise import coloured_noise, rms

pytest.importorskip("espeakng_loader", reason="no speech without espeak-ng")

from layerdial.data.synthesis import espeak

RATE = 16000
TEXTS = ("one morning there was a ship", "yes", "and nobody knew where it had come from or who was on board")

Floats = NDArray[np.float32]


@cache
def speech(text: str, voice: str = "en+m3") -> Floats:
    """Return `text` as samples (S,) at 16 kHz."""
    samples = espeak.speak(text, voice)
    spoken: Floats = 0.1 * soxr.resample(samples / rms(samples), espeak.SAMPLE_RATE, RATE).astype(np.float32)
    return spoken


@cache
def recording() -> tuple[Floats, list[tuple[int, int]]]:
    """Return speech with two seconds of faint noise around each text, and where each text is."""
    parts, spans, n = [np.zeros(0, np.float32)], [], 0
    for text in (*TEXTS, None):
        parts.append(hush(2, n))
        n += 2 * RATE
        if text is not None:
            parts.append(speech(text))
            spans.append((n, n + len(parts[-1])))
            n += len(parts[-1])
    return np.concatenate(parts), spans


def hush(seconds: float, seed: int = 0) -> Floats:
    """Return a quiet room: faint noise (S,)."""
    return 1e-4 * coloured_noise(round(seconds * RATE), 1, np.random.default_rng(seed))


def with_pauses(*texts: str, pause: float = 1.0) -> Floats:
    """Return the texts one after the other (S,), with a pause around each."""
    return np.concatenate([hush(pause), *(part for text in texts for part in (speech(text), hush(pause, len(text))))])
