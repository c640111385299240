from __future__ import annotations

import numpy as np
import pytest

from layerdial.features import N_MELS, SAMPLE_RATE, fbank, num_frames


def tones(n_samples: int) -> np.ndarray:
    rng = np.random.default_rng(n_samples)
    time = np.arange(n_samples) / SAMPLE_RATE
    return (0.2 * np.sin(2 * np.pi * 700 * time) + 0.01 * rng.standard_normal(n_samples)).astype(np.float32)


@pytest.mark.parametrize("n_samples", [160, 239, 240, 399, 400, 401, 800, 16000, 16079, 16080, 48123])
def test_frame_count_is_known_from_the_sample_count(n_samples: int) -> None:
    features = fbank(tones(n_samples))
    assert features.shape == (num_frames(n_samples), N_MELS)
    assert features.dtype == np.float32 and np.isfinite(features).all()


@pytest.mark.parametrize("n_samples", [1, 79, 80, 159])
def test_audio_shorter_than_a_frame_gives_one_frame(n_samples: int) -> None:
    features = fbank(tones(n_samples))
    assert features.shape == (1, N_MELS) and np.isfinite(features).all()


def test_silence_has_finite_features() -> None:
    assert np.isfinite(fbank(np.zeros(8000, dtype=np.float32))).all()


def test_a_tone_is_loudest_in_its_own_bin() -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    loudest = [
        int(np.median(fbank((0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)).argmax(1)))
        for hertz in (200, 400, 800, 1600, 3200, 6400)
    ]
    assert loudest == sorted(set(loudest))


def test_a_whole_second_of_shift_moves_features_by_100_frames() -> None:
    samples = tones(4 * SAMPLE_RATE)
    whole, later = fbank(samples), fbank(samples[SAMPLE_RATE:])
    np.testing.assert_array_equal(whole[102:-2], later[2:-2])  # the window of an edge frame reaches over the edge


@pytest.mark.parametrize("n_samples", [16000, 16080, 23456])
def test_features_are_those_of_lhotse(n_samples: int) -> None:
    from lhotse import Fbank, FbankConfig

    samples = tones(n_samples)
    theirs = Fbank(FbankConfig(num_filters=N_MELS, dither=0.0)).extract(samples, SAMPLE_RATE)
    ours = fbank(samples)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=0.02)
