"""The log-mel of wav2vec2-BERT, LASR and Granite Speech without transformers equals that of its feature extractors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import transformers

from layerdial.audio.features import Features, GraniteMel, LasrMel, SeamlessMel
from layerdial.errors import UserError
from layerdial.export.writer import device_features
from layerdial.models.huggingface.processor import HuggingFaceFeatures
from layerdial.runtime.manifest import describe_features, read_features
from tiny import speak

KINDS: dict[str, tuple[tuple[tuple[int, int, int], ...], Features]] = {
    "SeamlessM4TFeatureExtractor": ((), SeamlessMel()),
    "LasrFeatureExtractor": (((5, 2, 0), (5, 2, 0)), LasrMel(((5, 2, 0), (5, 2, 0)), 128)),
    "GraniteSpeech5FeatureExtractor": (((2, 2, 0), (2, 2, 0)), GraniteMel(((2, 2, 0), (2, 2, 0)), 80)),
}
LENGTHS = (1, 400, 559, 560, 720, 1000, 2320, 16001, 48123)


@pytest.fixture(params=KINDS)
def library(request: pytest.FixtureRequest) -> HuggingFaceFeatures:
    if request.param.startswith("Granite"):
        pytest.importorskip("torchaudio", exc_type=Exception)  # the library's extractor is built on it
    return HuggingFaceFeatures(getattr(transformers, request.param)(), KINDS[request.param][0])


def noise(length: int, scale: float = 0.1) -> np.ndarray:
    return (scale * np.random.default_rng(length).standard_normal(length)).astype(np.float32)


def test_a_device_computes_what_the_library_computes(library: HuggingFaceFeatures) -> None:
    ours = device_features(library)
    assert ours == KINDS[type(library.extractor).__name__][1]
    audios = [noise(length, scale) for length in LENGTHS for scale in (0.1, 1e-3)]
    for audio in [*audios, np.zeros(9000, np.float32), speak("low high middle") + noise(16000)[0]]:
        found, expected = ours(audio), library(audio)
        assert found.dtype == np.float32 and found.shape == expected.shape and len(found) > 0
        np.testing.assert_allclose(found, expected, atol=1e-3)
        assert ours.frames(len(found)) == library.frames(len(expected)) >= 1
    assert (ours.per_second, ours.samples_per_frame) == (library.per_second, library.samples_per_frame)


@pytest.mark.parametrize("features", [features for _, features in KINDS.values()], ids=KINDS)
def test_a_manifest_describes_them(features: Features) -> None:
    assert read_features(describe_features(features)) == features


GRANITE: Callable[..., np.ndarray] = GraniteMel((), 80)


@pytest.mark.parametrize(("length", "inputs"), [(320, 1), (480, 2), (640, 2), (799, 2), (800, 3), (16000, 50)])
def test_granite_stacks_two_frames_and_fills_the_last_input(length: int, inputs: int) -> None:
    assert GRANITE(noise(length)).shape == (inputs, 320)


def test_the_second_half_of_granites_inputs_are_differences() -> None:
    frames = GRANITE(noise(8000)).reshape(-1, 160)
    energies, differences = frames[:, :80], frames[:, 80:]
    np.testing.assert_allclose(differences[1:-1], (energies[2:] - energies[:-2]) / 2, atol=1e-6)
    np.testing.assert_allclose(differences[0], (energies[1] - energies[0]) / 2, atol=1e-6)
    assert energies.max() - energies.min() <= 2.0 + 1e-6  # 8 decades by 4


def test_the_bins_of_wav2vec2_bert_are_normalised() -> None:
    frames = SeamlessMel()(noise(16000)).reshape(-1, 80)
    np.testing.assert_allclose(frames.mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(frames.std(axis=0, ddof=1), 1.0, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("LasrFeatureExtractor", {"hop_length": 80}, r"features with .*'hop_length': 80.* cannot be computed on devi"),
        ("SeamlessM4TFeatureExtractor", {"stride": 1}, r"features with .*'stride': 1.* cannot be computed on devices"),
    ],
)
def test_settings_that_devices_do_not_have_are_refused(kind: str, change: dict[str, Any], message: str) -> None:
    extractor = getattr(transformers, kind)()
    vars(extractor).update(change)
    with pytest.raises(UserError, match=message):
        device_features(HuggingFaceFeatures(extractor, KINDS[kind][0]))


class OtherExtractor:
    model_input_names = ("input_features",)
    sampling_rate, hop_length = 16000, 160


def test_an_unknown_extractor_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="features of OtherExtractor cannot be computed on devices without"):
        device_features(HuggingFaceFeatures(OtherExtractor(), ()))
