"""Log-mel of audio in parts equals that of the whole audio, bit for bit however it is split."""

from __future__ import annotations

import random

import numpy as np
import pytest

from layerdial.audio.features import fbank
from layerdial.audio.streamed_mel import StreamedMel

CHUNK = 8  # frames


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0.0, 0.1, count).astype(np.float32)


def streamed(samples: np.ndarray, cuts: list[int]) -> np.ndarray:
    """The frames of samples that come in parts, taken eight at a time."""
    mel, found = StreamedMel(), []
    for part in np.split(samples, cuts):
        mel.feed(part)
        while mel.ready >= CHUNK:
            found.append(mel.take(CHUNK))
    return np.concatenate([*found, mel.rest()])


@pytest.mark.parametrize("count", [1, 79, 80, 159, 160, 239, 240, 279, 280, 281, 1400, 1559, 4001, 4080, 16000])
def test_streamed_frames_are_those_of_the_whole_audio(count: int) -> None:
    whole = fbank(noise(count))
    found = streamed(noise(count), [])
    assert found.shape == whole.shape
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_how_samples_are_split_changes_no_bit() -> None:
    samples, rng = noise(4321), random.Random(0)
    whole = streamed(samples, [])
    np.testing.assert_array_equal(streamed(samples, list(range(len(samples)))), whole)  # one at a time
    for _ in range(20):
        cuts = sorted(rng.choices(range(len(samples) + 1), k=rng.randint(1, 40)))  # some parts are empty
        np.testing.assert_array_equal(streamed(samples, cuts), whole)


def test_of_no_samples_there_are_no_frames() -> None:
    assert StreamedMel().rest().shape == (0, 80) and StreamedMel().ready == 0


def test_what_is_held_does_not_grow() -> None:
    mel = StreamedMel()
    for _ in range(600):
        mel.feed(np.zeros(1600, np.float32))
        while mel.ready >= CHUNK:
            mel.take(CHUNK)
    assert sum(map(len, mel._held._parts)) < 3 * 1600
