"""Windows: their kept parts are the whole audio, and an hour of it needs little memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from layerdial.audio.files import to_target_rate
from layerdial.audio.windows import CONTEXT_SECONDS, WINDOW_SECONDS, windows
from tiny import write_hour

SECOND = 16000


@pytest.mark.parametrize("seconds", [0.01, 5, 29.99, 30, 30.01, 31.5, 32, 54, 55.9, 56.2, 58.5, 100.7])
def test_the_kept_parts_of_windows_are_the_whole_audio(seconds: float) -> None:
    samples = np.random.default_rng(0).standard_normal(round(seconds * SECOND)).astype(np.float32)
    cut = list(windows(samples))
    kept = [window.samples[window.n_before : window.n_before + window.n_kept] for window in cut]
    np.testing.assert_array_equal(np.concatenate(kept), samples)
    assert all(len(window.samples) <= WINDOW_SECONDS * SECOND for window in cut)
    assert all(window.n_kept % SECOND == 0 and window.n_kept > 0 for window in cut[:-1])
    assert all(window.n_before == CONTEXT_SECONDS * SECOND for window in cut[1:])
    assert len(cut) == 1 or seconds > WINDOW_SECONDS


def test_windows_of_a_file_are_those_of_its_resampled_samples(tmp_path: Path) -> None:
    samples = 0.1 * np.random.default_rng(0).standard_normal(70 * 8000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")
    whole = to_target_rate(samples, 8000)
    for ours, theirs in zip(windows(tmp_path / "a.wav"), windows(whole), strict=True):
        assert (ours.n_before, ours.n_kept) == (theirs.n_before, theirs.n_kept)
        np.testing.assert_allclose(ours.samples, theirs.samples, atol=1e-5)


@pytest.fixture
def one_hour(tmp_path: Path) -> Iterator[Path]:
    path = write_hour(tmp_path / "hour.wav")
    yield path
    path.unlink()


def test_an_hour_of_audio_needs_little_memory(one_hour: Path) -> None:
    """230 MB as float32 samples at 16 kHz; a few windows' worth in use."""
    tracemalloc.start()
    try:
        kept = sum(window.n_kept for window in windows(one_hour))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert kept == 3600 * SECOND
    assert peak < 30e6
