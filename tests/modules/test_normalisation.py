"""Statistics of an utterance's loud frames: what moves them, and what must not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from layerdial.audio.features import fbank
from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.kaldi_fbank import SHIFT
from layerdial.audio.noise import rms
from layerdial.modules.normalisation import SpeechNorm, UtteranceNorm, loud_share
from tiny import noise, speak

TEXT = "low middle low middle middle low"
EDGE = 2  # frames at each end of the speech, whose windows reach into the pause


def batch(*utterances: np.ndarray) -> tuple[Tensor, Tensor]:
    rows = [torch.from_numpy(fbank(samples.astype(np.float32))) for samples in utterances]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


def normalised(samples: np.ndarray) -> Tensor:
    return SpeechNorm()(*batch(samples))[0]


def inner(frames_TF: Tensor, start: int, length: int) -> Tensor:
    return frames_TF[start + EDGE : start + length - EDGE]


@pytest.mark.parametrize("below_db", [20.0, 30.0, 60.0, np.inf])
@pytest.mark.parametrize("seconds", [0.5, 2.0, 5.0])
def test_pauses_of_silence_and_of_white_noise_move_no_feature_of_the_speech(seconds: float, below_db: float) -> None:
    samples, rng, n_pause = speak(TEXT), np.random.default_rng(0), round(seconds * SAMPLE_RATE)
    level = rms(samples) * 10 ** (-below_db / 20)
    before, after = (rng.normal(0.0, 1.0, n_pause) * level for _ in "ab")
    alone, longer = normalised(samples), normalised(np.concatenate([before, samples, after]))
    found = inner(longer, n_pause // SHIFT, len(alone)), inner(alone, 0, len(alone))
    torch.testing.assert_close(*found, rtol=0, atol=0.1)  # the frames at the ends count by a share
    assert (found[0] - found[1]).abs().mean() < 0.02


def test_a_pause_counts_for_nothing() -> None:
    samples, n_pause = speak(TEXT), SAMPLE_RATE
    share_BT = loud_share(*batch(np.pad(samples, n_pause), samples))
    assert not share_BT[0, : n_pause // SHIFT - EDGE].any() and not share_BT[0, -n_pause // SHIFT + EDGE :].any()
    assert share_BT[1].max() == 1.0 and 0.4 < share_BT[1, : len(samples) // SHIFT].mean() < 0.9


@pytest.mark.parametrize("n_samples", [1, 8, 80])
def test_a_click_of_full_scale_in_a_pause_changes_no_frame_but_those_it_is_in(n_samples: int) -> None:
    samples, at = np.pad(0.03 * speak(TEXT), SAMPLE_RATE), SAMPLE_RATE // 2
    clicked = samples.copy()
    clicked[at : at + n_samples] = 1.0
    change_TF, moved_TF = (
        (norm(*batch(clicked))[0] - norm(*batch(samples))[0]).abs() for norm in (SpeechNorm(), UtteranceNorm())
    )
    touched = slice(at // SHIFT - 3, (at + n_samples) // SHIFT + 3)
    assert change_TF[touched].max() > 1
    change_TF[touched] = moved_TF[touched] = 0.0
    assert change_TF.max() < 1e-4 < 0.05 < moved_TF.max()


def test_a_click_in_the_speech_takes_the_count_from_no_other_frame() -> None:
    samples, at = 0.03 * speak(TEXT), 8000
    clicked = samples.copy()
    clicked[at : at + 8] = 1.0
    shares = loud_share(*batch(clicked))[0], loud_share(*batch(samples))[0]
    touched = slice(at // SHIFT - 6, at // SHIFT + 6)
    for share_T in shares:
        share_T[touched] = 0.0
    torch.testing.assert_close(*shares, rtol=0, atol=1e-4)


def test_a_level_has_no_effect() -> None:
    samples = speak(TEXT)
    torch.testing.assert_close(normalised(10 * samples), normalised(4 * samples), rtol=0, atol=0.02)


def test_loud_frames_have_zero_mean_and_unit_variance_in_each_bin() -> None:
    inputs = batch(speak(TEXT), speak("low low"))
    share_BT1 = loud_share(*inputs).unsqueeze(2)
    found_BTF = SpeechNorm()(*inputs)
    mean_BF = (found_BTF * share_BT1).sum(1) / share_BT1.sum(1)
    variance_BF = (found_BTF.square() * share_BT1).sum(1) / share_BT1.sum(1)
    torch.testing.assert_close(mean_BF, torch.zeros_like(mean_BF), rtol=0, atol=1e-4)
    assert 0.8 < variance_BF.min() <= variance_BF.max() < 1.001  # less than 1 where a bin hardly varies


def test_an_utterance_gets_the_same_alone_and_in_a_batch_and_padding_is_zero() -> None:
    utterances = [speak("low middle " * (1 + i), i) for i in range(8)]
    inputs_BTF, lengths_B = batch(*utterances)
    together_BTF = SpeechNorm()(inputs_BTF, lengths_B)
    for samples, found_TF, length in zip(utterances, together_BTF, lengths_B.tolist(), strict=True):
        torch.testing.assert_close(found_TF[:length], normalised(samples), rtol=0, atol=1e-5)
        assert not found_TF[length:].any()


@pytest.mark.parametrize("length", [1, 2, 4, 5, 6])
def test_the_shortest_audio_is_finite_and_not_moved_by_padding(length: int) -> None:
    inputs_BTF, lengths_B = noise([length, 40])
    together_BTF = SpeechNorm()(inputs_BTF, lengths_B)
    torch.testing.assert_close(together_BTF[0, :length], SpeechNorm()(inputs_BTF[:1, :length], lengths_B[:1])[0])
    assert together_BTF.isfinite().all()


def test_digital_silence_and_one_note_are_finite() -> None:
    for samples in (np.zeros(SAMPLE_RATE), np.sin(np.arange(SAMPLE_RATE) * 0.1)):
        assert normalised(samples).isfinite().all()
