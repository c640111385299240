"""Rooms: a tail that falls as asked, behind a direct sound that is as strong as asked."""

from __future__ import annotations

import numpy as np
import pytest

from layerdial.data.synthesis.espeak import PEAK_DB, SAMPLE_RATE, SNR_DB, Utterance, add_background, speak, synthesise
from layerdial.data.synthesis.reverb import reverberate, room_response


@pytest.mark.parametrize("rt60", [0.2, 0.7, 2.0])
def test_tail_falls_at_the_rate_asked_for(rt60: float) -> None:
    tail = room_response(rt60, 0.0, SAMPLE_RATE, np.random.default_rng(0))[1:]
    left_db = 10 * np.log10(np.cumsum(np.square(tail[::-1]))[::-1])  # Schroeder's backward integration
    left_db -= left_db[0]
    start, end = (int(np.argmax(left_db < level)) for level in (-2, -15))
    decibels_a_second = np.polyfit(np.arange(start, end) / SAMPLE_RATE, left_db[start:end], 1)[0]
    assert -60 / decibels_a_second == pytest.approx(rt60, rel=0.1)


def test_direct_sound_comes_first_and_is_as_strong_as_asked() -> None:
    response = room_response(0.5, 3.0, SAMPLE_RATE, np.random.default_rng(1))
    assert np.sum(np.square(response)) == pytest.approx(1)
    assert response[0] ** 2 / np.sum(np.square(response[1:])) == pytest.approx(10**0.3)


def test_room_keeps_onset_and_energy_and_adds_a_tail() -> None:
    dry = np.pad(speak("stop", "en+m3"), (500, 0))
    wet = reverberate(dry, room_response(0.5, 0.0, SAMPLE_RATE, np.random.default_rng(2)))
    assert wet.dtype == np.float32 and len(wet) == len(dry) + SAMPLE_RATE // 4 - 1
    begin = int(np.flatnonzero(dry)[0])
    assert np.abs(wet[:begin]).max() < 1e-6 < abs(wet[begin])  # nothing is heard before it is said
    assert np.sum(np.square(wet)) == pytest.approx(np.sum(np.square(dry)), rel=1e-4)
    assert np.sum(np.square(wet[len(dry) :])) > 1e-4 * np.sum(np.square(dry))


def test_noise_comes_after_the_room() -> None:
    said = Utterance("stop the music", "en+m3")
    alone, noisy = (synthesise(said, snr_db, 5, (0.3, 0.3)) for snr_db in (None, (60.0, 60.0)))
    lag = int(np.argmax(np.correlate(noisy.astype(float), alone.astype(float))))
    heard = noisy[lag : lag + len(alone)]
    assert np.corrcoef(heard, alone)[0, 1] > 0.999  # the same room as without noise
    after = noisy[lag + len(alone) :]
    assert np.std(after[: len(after) // 2]) == pytest.approx(np.std(after[len(after) // 2 :]), rel=0.5)  # no tail


def test_same_seed_same_room_and_another_seed_another() -> None:
    said = Utterance("six", "en+f1")
    first, again, other = (synthesise(said, (0.0, 15.0), seed, (0.2, 0.7)) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert not np.array_equal(first, synthesise(said, (0.0, 15.0), 1))


def test_without_a_room_nothing_is_drawn_for_one() -> None:
    # else the demo's corpus would change, and with it every number that was measured on it
    said = Utterance("six", "en+f1")
    rng = np.random.default_rng(7)
    expected = add_background(synthesise(said, None), rng.uniform(*SNR_DB), rng)
    expected *= 10 ** (rng.uniform(*PEAK_DB) / 20) / np.abs(expected).max()
    assert np.allclose(synthesise(said, seed=7), expected, atol=1e-6)
