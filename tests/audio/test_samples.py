"""Samples as the network's input: how many frames they make, and what a manifest says of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layerdial.audio.features import LogMel, Samples, fewest_inputs, frames_after
from layerdial.runtime.manifest import describe_features, read_features

WAV2VEC2 = ((10, 5, 0), (3, 2, 0), (3, 2, 0), (3, 2, 0), (3, 2, 0), (2, 2, 0), (2, 2, 0))


@pytest.mark.parametrize("convolutions", [WAV2VEC2, ((10, 5, 0),), ((3, 2, 1), (3, 2, 1)), ((7, 3, 2), (4, 4, 0))])
def test_frames_are_counted_as_the_convolutions_make_them(convolutions: tuple[tuple[int, int, int], ...]) -> None:
    layers = torch.nn.Sequential(
        *(torch.nn.Conv1d(1, 1, kernel, stride, padding) for kernel, stride, padding in convolutions)
    )
    fewest = max(1, fewest_inputs(convolutions))
    for n_samples in (fewest, fewest + 1, fewest + 17, 999, 1600):
        with torch.no_grad():
            made = layers(torch.zeros(1, 1, n_samples)).shape[2]
        assert frames_after(convolutions, n_samples) == made >= 1
    if fewest > 1:
        assert frames_after(convolutions, fewest - 1) < 1


def test_wav2vec2_needs_25_ms_and_gives_50_frames_a_second() -> None:
    features = Samples(WAV2VEC2, normalise=True)
    assert fewest_inputs(WAV2VEC2) == 400
    assert (features.per_second, features.samples_per_frame) == (16000, 320)
    np.testing.assert_array_equal(features.frames(np.array([400, 719, 720, 16000])), [1, 1, 2, 49])


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("n_samples", [0, 1, 399, 400, 5000])
def test_samples_stay_samples_and_are_never_too_few(normalise: bool, n_samples: int) -> None:
    audio = (0.3 * np.random.default_rng(0).standard_normal(n_samples) + 0.1).astype(np.float32)
    before = audio.copy()
    heard = Samples(WAV2VEC2, normalise)(audio)
    assert heard.dtype == np.float32 and heard.shape == (max(400, n_samples),) and np.isfinite(heard).all()
    np.testing.assert_array_equal(audio, before)
    if normalise and n_samples:
        assert abs(heard.mean()) < 1e-4 and heard.std() == pytest.approx(1.0, abs=1e-2)
    if not normalise:
        np.testing.assert_array_equal(heard[:n_samples], audio)


@pytest.mark.parametrize("features", [LogMel(4), Samples(WAV2VEC2, True), Samples(((10, 5, 0),), False)])
def test_features_are_the_same_after_a_manifest(features: LogMel | Samples) -> None:
    import json

    assert read_features(json.loads(json.dumps(describe_features(features)))) == features


def test_features_of_another_kind_are_not_read() -> None:
    with pytest.raises(ValueError, match="features of kind 'video'"):
        read_features({"kind": "video"})
