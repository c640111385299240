"""Whisper's log-mel features equal transformers' extractor: of any length, and as the start of audio padded to 30 s."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from layerdial.audio.features import WhisperMel
from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.whisper_mel import WINDOW_FRAMES, num_frames, silence
from layerdial.export.writer import device_features
from layerdial.runtime.manifest import describe_features, read_features
from tiny import speak

BINS = pytest.mark.parametrize("n_mels", [80, 128])


def sound(n_samples: int) -> NDArray[np.float32]:
    """Tones, noise and pauses of very different levels."""
    rng = np.random.default_rng(n_samples)
    level = np.repeat(10.0 ** rng.uniform(-4, 0, n_samples // 1600 + 1), 1600)[:n_samples]
    time = np.arange(n_samples) / SAMPLE_RATE
    made = level * (0.5 * np.sin(2 * np.pi * 400 * time) + 0.2 * rng.standard_normal(n_samples))
    return made.astype(np.float32)


def theirs(samples: NDArray[np.float32], n_mels: int) -> NDArray[np.float32]:
    """The library's features (T, F) of audio padded to 30 s, or of longer audio as it is."""
    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    made = extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="np", truncation=False)
    return np.asarray(made["input_features"][0]).T


@BINS
@pytest.mark.parametrize("n_samples", [0, 1, 399, 401, 16000, 16079, 48123, 30 * SAMPLE_RATE - 200])
def test_features_followed_by_silence_are_those_of_transformers(n_mels: int, n_samples: int) -> None:
    samples = sound(n_samples)
    features = WhisperMel(n_mels)(samples)
    assert features.shape == (num_frames(n_samples), n_mels) and features.dtype == np.float32
    padded = np.full((WINDOW_FRAMES, n_mels), silence(features.max()))
    padded[: len(features)] = features
    np.testing.assert_allclose(padded, theirs(samples, n_mels), atol=1e-4)


def test_speech_clipped_noise_and_silence_are_as_in_transformers() -> None:
    for samples in (speak("low high middle"), np.sign(sound(8000)), np.zeros(8000, np.float32)):
        features = WhisperMel(80)(samples)
        np.testing.assert_allclose(features, theirs(samples, 80)[: len(features)], atol=1e-4)


@pytest.mark.parametrize("n_samples", [30 * SAMPLE_RATE, 31 * SAMPLE_RATE + 40])
def test_from_30_seconds_on_the_last_frames_alone_differ(n_samples: int) -> None:
    samples = sound(n_samples)
    features, expected = WhisperMel(80)(samples), theirs(samples, 80)
    assert len(features) == num_frames(n_samples) >= len(expected) >= WINDOW_FRAMES
    inner = len(expected) - 2  # at its end the library mirrors the signal, which here is followed by silence
    np.testing.assert_allclose(features[:inner], expected[:inner], atol=1e-4)


@pytest.mark.parametrize("n_frames", [2, 3, 100, 101, 3000])
def test_frames_are_those_of_the_network(n_frames: int) -> None:
    encoder = WhisperEncoder(WhisperConfig(d_model=4, encoder_layers=0))
    made = encoder.conv2(encoder.conv1(torch.zeros(1, 80, n_frames)))
    assert WhisperMel(80).frames(n_frames) == made.shape[2]
    assert WhisperMel(80).samples_per_frame == 320


@pytest.mark.parametrize("features", [WhisperMel(80), WhisperMel(128)])
def test_devices_read_what_is_written_of_them(features: WhisperMel) -> None:
    assert read_features(json.loads(json.dumps(describe_features(device_features(features))))) == features
