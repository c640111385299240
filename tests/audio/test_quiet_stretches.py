"""Where a recording is quiet beside the rest of it, and words that keep out of its pauses."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from layerdial.audio.pauses import outside, quiet_stretches

RATE = 16000


def recording(*stretches: tuple[float, float], seed: int = 0) -> NDArray[np.float32]:
    """Noise of so many seconds at so many decibels, one stretch after the other."""
    rng = np.random.default_rng(seed)
    parts = [rng.normal(0, 10 ** (db / 20), round(seconds * RATE)) for seconds, db in stretches]
    return np.concatenate(parts).astype(np.float32)


def test_pauses_are_found_at_any_loudness() -> None:
    for louder in (-30.0, 0.0):
        found = quiet_stretches(recording((1.0, louder), (0.5, louder - 40), (1.0, louder), (0.3, louder - 40)))
        assert np.array(found) == pytest.approx(np.array([[1.0, 1.5], [2.5, 2.8]]), abs=0.02)


def test_in_digital_silence_is_what_is_much_quieter_than_speech() -> None:
    samples = recording((1.0, -20), (0.5, -75), (1.0, -20))
    samples[RATE : RATE + 4000] = 0.0
    assert np.array(quiet_stretches(samples)) == pytest.approx(np.array([[1.0, 1.5]]), abs=0.02)


def test_short_stops_and_noise_that_changes_little_are_no_pauses() -> None:
    assert quiet_stretches(recording((1.0, -20), (0.06, -60), (1.0, -20))) == []
    assert quiet_stretches(recording((1.0, -20), (0.5, -24), (1.0, -20))) == []
    assert quiet_stretches(np.zeros(RATE, np.float32)) == quiet_stretches(np.zeros(100, np.float32)) == []


def test_a_word_leaves_out_the_pauses_at_its_ends() -> None:
    quiet = [(1.0, 2.0)]
    assert outside((0.4, 1.5), quiet) == (0.4, 1.0)  # it ends in the pause
    assert outside((1.2, 2.4), quiet) == (2.0, 2.4)  # it begins there
    assert outside((0.95, 2.4), quiet) == (2.0, 2.4)  # or shortly before it
    assert outside((0.4, 2.05), quiet) == (0.4, 1.0)
    assert outside((0.4, 2.6), quiet) == (0.4, 2.6)  # the pause is within it
    assert outside((1.2, 1.6), quiet) == (1.2, 1.6)  # nothing else would be left
    assert outside((0.2, 2.5), [(0.0, 0.3), (2.2, 3.0)]) == (0.3, 2.2)
