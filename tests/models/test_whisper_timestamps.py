"""Timestamps of published Whisper on real speech are those of transformers, in torch and as exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from layerdial.export.export import export_model
from layerdial.models.huggingface.ctranslate2 import convert_ctranslate2
from layerdial.models.torch_recognizer import load_torch_model
from layerdial.request import Request
from layerdial.runtime import Recognizer
from layerdial.transcript import Segment
from real_models import real_clip, real_model

pytestmark = pytest.mark.slow


def their_segments(folder: Path, samples: NDArray[np.float32]) -> list[tuple[float, float, str]]:
    model: Any = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    processor: Any = WhisperProcessor.from_pretrained(folder)
    inputs = processor(samples, sampling_rate=16000, return_tensors="pt").input_features
    ids = model.generate(inputs, return_timestamps=True, num_beams=1, do_sample=False)
    found = processor.tokenizer.decode(ids[0], skip_special_tokens=True, output_offsets=True)["offsets"]
    return [(*(round(time, 2) for time in one["timestamp"]), one["text"].strip()) for one in found]


def spans(segments: tuple[Segment, ...]) -> list[tuple[float, float, str]]:
    return [(round(one.start, 2), round(one.end, 2), one.text) for one in segments]


def test_segments_of_a_recording_are_those_of_transformers(tmp_path: Path) -> None:
    convert_ctranslate2(real_model("tiny.en", tmp_path / "ct2"), tmp_path / "hf")
    samples, rate = soundfile.read(real_clip(), dtype="float32")
    assert rate == 16000
    expected = their_segments(tmp_path / "hf", samples)
    assert len(expected) > 1 and expected[-1][1] <= len(samples) / rate
    export_model(tmp_path / "hf", tmp_path / "edge")
    long = np.concatenate([samples, np.zeros(rate, np.float32)] * 4)
    both = load_torch_model(tmp_path / "hf"), Recognizer(tmp_path / "edge", threads=1)
    ours = []
    for model in both:
        assert spans(model.answer(samples, Request(timestamps=True)).segments) == expected
        ours.append(model.answer(long, Request(timestamps=True)))
    assert spans(ours[0].segments) == spans(ours[1].segments)
    times = [time for start, end, _ in spans(ours[0].segments) for time in (start, end)]
    assert times == sorted(times) and times[-1] <= ours[0].seconds
    assert ours[0].text.lower().count("massive virtues") == 4  # said once in each
