"""Stretches of speech: the same however the audio is split, whole, in order, and none in noise or silence."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from layerdial.audio.noise import coloured_noise
from layerdial.audio.utterances import Pauses, Segmenter, Stretch
from layerdial.audio.voice import FRAME, VoiceDetector
from tiny_speech import RATE, TEXTS, Floats, recording, speech


def stretches(samples: Floats, sizes: list[int], pauses: Pauses | None = None) -> list[Stretch]:
    """Return the stretches of samples that come in parts of these sizes, again and again."""
    segmenter, found, at = Segmenter(pauses), list[Stretch](), 0
    while at < len(samples):
        for size in sizes:
            found += segmenter.feed(samples[at : at + size])
            at += size
    return found + segmenter.finish()


@pytest.mark.parametrize("sizes", [[5000, 511, 1, 0, 513], [1600]])
@pytest.mark.parametrize("pauses", [Pauses(), Pauses(silence=0.1, before=0, after=0), Pauses(longest=2)])
def test_any_split_gives_the_same_stretches(sizes: list[int], pauses: Pauses) -> None:
    samples, _ = recording()
    whole, parts = (stretches(samples, cut, pauses) for cut in ([len(samples)], sizes))
    assert [(one.start, one.end) for one in whole] == [(one.start, one.end) for one in parts]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one.samples, samples[one.start : one.end])
        np.testing.assert_array_equal(one.samples, other.samples)
    assert all(one.end <= following.start for one, following in pairwise(whole))


def test_each_text_is_one_stretch_with_what_is_around_it() -> None:
    samples, spans = recording()
    found = stretches(samples, [RATE])
    assert len(found) == len(spans)
    for stretch, (start, end) in zip(found, spans, strict=True):
        assert start - 0.5 * RATE < stretch.start < start + 0.1 * RATE
        assert end - 0.2 * RATE < stretch.end < end + 0.5 * RATE


def test_probabilities_do_not_depend_on_the_parts() -> None:
    samples = recording()[0][: 5 * RATE + 100]
    detector = VoiceDetector()
    whole = np.concatenate([detector.feed(samples), detector.finish()])
    parts = [detector.feed(samples[start : start + 1000]) for start in range(0, len(samples), 1000)]
    np.testing.assert_array_equal(whole, np.concatenate([*parts, detector.finish()]))
    assert len(whole) == -(-len(samples) // FRAME)
    assert detector.feed(samples[:100]).shape == (0,)
    detector.reset()
    np.testing.assert_array_equal(whole[:-1], detector.feed(samples))


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_probabilities_are_those_of_the_library() -> None:
    """Of its model in torch, which takes one frame after the other."""
    silero_vad = pytest.importorskip("silero_vad")
    samples = recording()[0][: 250 * FRAME]
    theirs = silero_vad.load_silero_vad().audio_forward(torch.from_numpy(samples[None]), sr=RATE)[0]
    ours = VoiceDetector().feed(samples)
    assert ours.max() > 0.9 and ours.min() < 0.1
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)


@pytest.mark.parametrize("longest", [2.0, 3.5])
def test_a_long_stretch_is_cut_and_loses_nothing(longest: float) -> None:
    samples = np.concatenate([speech(TEXTS[2])] * 3)
    whole, parts = (stretches(samples, [8000], Pauses(longest=most)) for most in (30, longest))
    assert len(whole) == 1 < len(parts)
    assert all(part.end - part.start <= longest * RATE for part in parts)
    assert abs(len(whole[0].samples) - sum(len(part.samples) for part in parts)) < 0.5 * RATE


@pytest.mark.parametrize("slope", [0, 1])
@pytest.mark.parametrize("level", [0, 1e-4, 0.1])
def test_nobody_speaks_in_noise(slope: float, level: float) -> None:
    noise = level * coloured_noise(20 * RATE, slope, np.random.default_rng(0))
    assert stretches(noise, [RATE]) == []


def test_what_is_no_audio_has_no_stretch() -> None:
    assert stretches(np.zeros(0, np.float32), [1]) == []
    assert stretches(np.zeros(1, np.float32), [1]) == []


def test_a_segmenter_begins_anew() -> None:
    samples, _ = recording()
    segmenter = Segmenter()
    first, second = ([*segmenter.feed(samples), *segmenter.finish()] for _ in range(2))
    assert [(one.start, one.end) for one in first] == [(one.start, one.end) for one in second]
    assert not segmenter.speaking


@pytest.mark.parametrize("wrong", [{"after": 1.0}, {"release": 0.9}, {"threshold": 1.1}, {"longest": 1.0}])
def test_times_that_contradict_each_other_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Pauses(**wrong)
