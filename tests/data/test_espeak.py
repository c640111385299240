"""Synthetic voices and their background: pure functions of their seed, in any process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from layerdial.data.synthesis.demo_corpus import SPLITS, VOICES
from layerdial.data.synthesis.espeak import (
    NATIVE_RATE,
    SAMPLE_RATE,
    Floats,
    Utterance,
    add_background,
    coloured_noise,
    speak,
    synthesise,
    variants,
)
from layerdial.errors import UserError

BREATHY = ("en+f2", "en-us+caleb", "en+Reed", "en-gb-scotland+sandro", "en+klatt2", "en-us+m3")


def test_splits_share_no_voice_and_there_are_enough() -> None:
    everyone = [name for split in SPLITS for name in VOICES[split]]
    assert len(everyone) == len(set(everyone)) >= 40
    assert set(everyone) <= set(variants())


@pytest.mark.parametrize("voice", BREATHY)
def test_what_was_said_before_changes_nothing(voice: str) -> None:
    first = speak("seven four", voice)
    for other in BREATHY:
        speak("turn on the light", other, 300, 80)
    assert np.array_equal(first, speak("seven four", voice))


def test_another_process_gives_the_same_samples() -> None:
    code = (
        "import sys; from layerdial.data.synthesis.espeak import *\n"
        f"for voice in {BREATHY}: sys.stdout.buffer.write(synthesise(Utterance('six', voice), seed=3).tobytes())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert there == b"".join(synthesise(Utterance("six", voice), seed=3).tobytes() for voice in BREATHY)


def test_variants_differ() -> None:
    said = {speak("call seven four two", f"en+{name}").tobytes() for split in SPLITS for name in VOICES[split]}
    assert len(said) == sum(len(names) for names in VOICES.values())


def test_faster_is_shorter_and_higher_pitch_is_higher() -> None:
    slow, fast = (len(speak("turn on the kitchen light", "en+m3", speed)) for speed in (120, 220))
    assert 1.5 < slow / fast < 2.1
    low, high = (fundamental(speak("oh no", "en+m3", pitch=pitch)) for pitch in (0, 99))
    assert 60 < low < 100 < 150 < high < 220


def fundamental(samples: Floats) -> float:
    """Hz of the highest peak, between 50 and 250 Hz, of the autocorrelation of the second quarter of (S,)."""
    part = samples[len(samples) // 4 : len(samples) // 2]
    same = np.correlate(part, part, "full")[len(part) - 1 :]
    return NATIVE_RATE / (NATIVE_RATE // 250 + int(np.argmax(same[NATIVE_RATE // 250 : NATIVE_RATE // 50])))


@pytest.mark.parametrize("voice", ["en+nobody", "xx+f2", "", "en+../../phontab", "en-us+"])
def test_unknown_voice_is_named(voice: str) -> None:
    with pytest.raises(UserError, match="unknown voice"):
        speak("one", voice)


@pytest.mark.parametrize(("speed", "pitch"), [(20, 50), (900, 50), (175, -1), (175, 200)])
def test_numbers_out_of_range_are_refused(speed: int, pitch: int) -> None:
    with pytest.raises(UserError, match="takes"):
        speak("one", "en", speed, pitch)


def test_data_folder_with_a_long_path_works(tmp_path: Path) -> None:
    # The library keeps its path in 160 bytes.
    code = (
        "import espeakng_loader as loader, os, sys; folder = sys.argv[1] + '/' + 'x' * 150\n"
        "os.symlink(loader.get_data_path(), folder); loader.get_data_path = lambda: folder\n"
        "from layerdial.data.synthesis.espeak import speak; print(len(speak('one', 'en+f2')))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(speak("one", "en+f2"))


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 30.0])
def test_noise_is_as_far_below_the_speech_as_asked(snr_db: float) -> None:
    speech = synthesise(Utterance("set alarm at six thirty", "en+m3"), snr_db=None)
    noisy = add_background(speech, snr_db, np.random.default_rng(0))
    lag = int(np.argmax(np.correlate(noisy.astype(float), speech.astype(float))))
    noise = noisy.copy()
    noise[lag : lag + len(speech)] -= speech
    found = 10 * np.log10(np.mean(np.square(speech, dtype=float)) / np.mean(np.square(noise, dtype=float)))
    assert found == pytest.approx(snr_db, abs=0.1)


def test_pink_noise_falls_three_decibels_an_octave() -> None:
    power = np.abs(np.fft.rfft(coloured_noise(1 << 17, 1.0, np.random.default_rng(0)))) ** 2
    octave = (1 << 17) * 1000 // SAMPLE_RATE
    assert power[octave : 2 * octave].mean() / power[2 * octave : 4 * octave].mean() == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("seed", range(20))
def test_samples_never_clip(seed: int) -> None:
    samples = synthesise(Utterance("stop", "en+iven2", 220, 80), seed=seed)
    assert samples.dtype == np.float32 and np.isfinite(samples).all()
    assert 0.09 < np.abs(samples).max() < 0.9


def test_words_have_the_times_of_their_phonemes() -> None:
    from layerdial.data.synthesis.timed import speak_timed

    samples, words = speak_timed("turn off the light, please call one of the men", "en-us+f2")
    assert (samples == speak("turn off the light, please call one of the men", "en-us+f2")).all()
    assert [word.text for word in words] == ["turn", "off", "the", "light,", "please", "call", "one", "of the", "men"]
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= len(samples) / 22050
    pause = samples[round(words[3].end * 22050) + 400 : round(words[4].start * 22050) - 1500]
    assert len(pause) > 1000 and np.abs(pause).max() < 0.02 < np.abs(samples).max()
