"""Whisper's log-mel features equal transformers' extractor, of any length, padded to 30 s or not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

from layerdial.audio.features import WhisperMel
from layerdial.audio.files import SAMPLE_RATE
from layerdial.errors import UserError
from layerdial.export.writer import device_features
from layerdial.models.huggingface.processor import whisper_features
from layerdial.runtime.manifest import describe_features, read_features
from tiny import speak

BINS = pytest.mark.parametrize("n_mels", [80, 128])


def speech(n_samples: int) -> NDArray[np.float32]:
    """Tones, noise and pauses of very different levels."""
    rng = np.random.default_rng(n_samples)
    level = np.repeat(10.0 ** rng.uniform(-4, 0, n_samples // 1600 + 1), 1600)[:n_samples]
    time = np.arange(n_samples) / SAMPLE_RATE
    made = level * (0.5 * np.sin(2 * np.pi * 400 * time) + 0.2 * rng.standard_normal(n_samples))
    return made.astype(np.float32)


def theirs(samples: NDArray[np.float32], n_mels: int, **settings: Any) -> NDArray[np.float32]:
    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    made = extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="np", **settings)
    return np.asarray(made["input_features"][0]).T


@BINS
@pytest.mark.parametrize("n_samples", [400, 401, 560, 16000, 16079, 16080, 48123, 31 * SAMPLE_RATE])
def test_features_are_those_of_transformers(n_mels: int, n_samples: int) -> None:
    samples = speech(n_samples)
    ours = WhisperMel(n_mels)(samples)
    assert ours.shape == (n_samples // 160, n_mels) and ours.dtype == np.float32
    expected = theirs(samples, n_mels, padding=False, truncation=False)
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@BINS
@pytest.mark.parametrize("seconds", [0.0, 0.01, 3.3, 30, 31])
def test_padded_features_are_those_of_transformers(n_mels: int, seconds: float) -> None:
    samples = speech(int(seconds * SAMPLE_RATE))
    ours = WhisperMel(n_mels, padded=True)(samples)
    assert ours.shape == (3000, n_mels)
    np.testing.assert_allclose(ours, theirs(samples, n_mels), atol=1e-4)


def test_speech_and_clipped_noise_are_those_of_transformers() -> None:
    for samples in (speak("low high middle"), np.sign(speech(8000)), np.zeros(8000, np.float32)):
        expected = theirs(samples, 80, padding=False)
        np.testing.assert_allclose(WhisperMel(80)(samples), expected, atol=1e-4)


def test_padding_changes_the_last_two_frames_alone() -> None:
    samples = speech(16000)
    np.testing.assert_allclose(WhisperMel(80)(samples)[:-2], WhisperMel(80, padded=True)(samples)[:98], atol=1e-6)


@pytest.mark.parametrize("n_samples", [0, 1, 159, 399])
def test_audio_shorter_than_a_window_gives_two_frames(n_samples: int) -> None:
    features = WhisperMel(80)(speech(n_samples))
    assert features.shape == (2, 80) and np.isfinite(features).all()


@pytest.mark.parametrize("n_frames", [2, 3, 100, 101, 3000])
def test_frames_are_those_of_the_network(n_frames: int) -> None:
    import torch
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    encoder = WhisperEncoder(WhisperConfig(d_model=4, encoder_layers=0))
    made = encoder.conv2(encoder.conv1(torch.zeros(1, 80, n_frames)))
    assert WhisperMel(80).frames(n_frames) == made.shape[2]
    assert WhisperMel(80).samples_per_frame == 320


@pytest.mark.parametrize("features", [WhisperMel(80), WhisperMel(128, padded=True)])
def test_devices_read_what_is_written_of_them(features: WhisperMel) -> None:
    assert read_features(json.loads(json.dumps(describe_features(device_features(features))))) == features


@BINS
def test_an_extractor_of_openai_is_known_and_another_refused(n_mels: int) -> None:
    assert whisper_features(WhisperFeatureExtractor(feature_size=n_mels), "x") == WhisperMel(n_mels)
    with pytest.raises(UserError, match=r"x: its features have .*'hop_length': 200"):
        whisper_features(WhisperFeatureExtractor(hop_length=200), "x")
