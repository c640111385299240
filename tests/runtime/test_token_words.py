"""Words of an encoder-decoder model: torch and the export give the same, in order, in the audio, all of the text."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from layerdial.request import Request
from layerdial.transcript import Transcript
from tiny_whisper import N_BLOCKS, Pair, samples

pytest_plugins = ["tiny_whisper_edge"]
LENGTHS = (16_000, 50_001, 31 * 16_000)  # the last is recognised in two pieces


def check(found: Transcript) -> None:
    assert found.words and " ".join(word.text for word in found.words).split() == found.text.split()
    for word in found.words:
        assert 0 <= word.start <= word.end <= found.seconds + 1e-6
        assert 0 <= word.confidence <= 1
    for one, following in pairwise(found.words):
        assert one.end <= following.start + 1e-6


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("depth", [1, N_BLOCKS])
def test_torch_and_the_export_find_the_same_words(pair: Pair, length: int, depth: int) -> None:
    request = Request(depth=depth, words=True)
    torch, onnx = (recognizer.answer(samples(length), request) for recognizer in (pair.torch, pair.onnx))
    assert torch.text == onnx.text
    check(torch)
    check(onnx)
    for one, other in zip(torch.words, onnx.words, strict=True):
        assert one.text == other.text and one.confidence == pytest.approx(other.confidence, abs=1e-4)
        assert (one.start, one.end) == pytest.approx((other.start, other.end), abs=0.021)  # ties of the path: a frame


def test_words_change_no_text_and_are_there_only_when_asked_for(pair: Pair) -> None:
    for recognizer in (pair.torch, pair.onnx):
        plain = recognizer.answer(samples(LENGTHS[1]), Request())
        assert plain.words == () and plain.text == recognizer.answer(samples(LENGTHS[1]), Request(words=True)).text


def test_silence_has_no_words(pair: Pair) -> None:
    for recognizer in (pair.torch, pair.onnx):
        found = recognizer.answer(np.zeros(16_000, np.float32), Request(words=True))
        assert found.text == "" and found.words == ()
