"""A model that was trained with pauses: they cost it nothing, and it writes no words where nobody speaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conftest import Corpus
from layerdial import load_model
from layerdial.audio.files import SAMPLE_RATE
from layerdial.evaluation.metrics import score, total
from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.training.loop import train
from tiny import sentences, speak, tiny_recipe

pytestmark = pytest.mark.slow
TEXTS = sentences(30, seed=7)


@pytest.fixture(scope="module")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> TorchRecognizer:
    """Learnt the tones by 400 updates with pauses, on features of fixed statistics."""
    out: Path = tmp_path_factory.mktemp("pauses") / "run"
    changes = ("model.normalise=fixed", "data.pauses={seconds: 3.0, from_epoch: 3}", "policy.name=none")
    steps = ("train.steps=400", "train.eval_every=400", "train.log_every=100")
    return load_model(train(tiny_recipe(out, corpus.train, corpus.dev, *changes, *steps)))  # type: ignore[return-value]


def errors(model: TorchRecognizer, seconds: float, level: float) -> int:
    """Errors in thirty sentences with so many seconds of white noise of this level on each side."""
    rng, heard = np.random.default_rng(0), []
    for number, text in enumerate(TEXTS):
        before, after = (rng.normal(0.0, level, round(seconds * SAMPLE_RATE)) for _ in range(2))
        samples = np.concatenate([before, speak(text, 1000 + number), after]).astype(np.float32)
        heard.append((text, model.transcribe(samples).text))
    return total(score(heard)).errors


@pytest.mark.parametrize("level", [0.0, 0.015])  # the tones have 0.15: noise 20 dB below
@pytest.mark.parametrize("seconds", [0.5, 2.0, 5.0])
def test_pauses_cost_no_more_than_a_tenth(trained: TorchRecognizer, seconds: float, level: float) -> None:
    words = sum(len(text.split()) for text in TEXTS)
    plain = errors(trained, 0.0, 0.0)
    assert plain < 0.1 * words
    assert errors(trained, seconds, level) <= max(1.1 * plain, plain + 1)


@pytest.mark.parametrize("level", [0.0, 0.001, 0.01, 0.1])
def test_silence_and_white_noise_have_no_words(trained: TorchRecognizer, level: float) -> None:
    noise = np.random.default_rng(1).normal(0.0, level, 10 * SAMPLE_RATE).clip(-1, 1).astype(np.float32)
    assert trained.transcribe(noise).text == ""
