"""What is pruned here runs in faster-whisper, by CTranslate2's own converter, and writes the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE
from layerdial.models.huggingface.ctranslate2 import convert_ctranslate2
from layerdial.models.huggingface.whisper_decoding import TorchEncoded
from layerdial.models.prune import prune_model
from layerdial.models.torch_recognizer import load_torch_model
from layerdial.subset import BlockSubset
from layerdial.text.token_decoding import decode_greedily
from layerdial.text.token_rules import Written
from real_models import real_clip, real_model

SECONDS = 30


def our_tokens(folder: Path, samples: NDArray[np.float32]) -> Written:
    recognizer: Any = load_torch_model(folder)
    network = recognizer.network
    assert network.pads_input
    mel = torch.from_numpy(network.features(samples)).unsqueeze(0)
    with torch.no_grad():
        memory, _ = network.encode(mel, torch.tensor([mel.shape[1]]), BlockSubset.full(network.n_blocks))
        encoded = TorchEncoded(network, memory, network.decoder_use)
        (written,) = decode_greedily(encoded, [SECONDS], recognizer.decoding.rules)
    return written


def their_tokens(folder: Path, samples: NDArray[np.float32], into: Path) -> list[int]:
    """The tokens of faster-whisper, greedy and without its own fallbacks, of audio padded to 30 s."""
    faster_whisper = pytest.importorskip("faster_whisper")
    converters = pytest.importorskip("ctranslate2.converters")
    converters.TransformersConverter(str(folder), copy_files=["tokenizer.json"]).convert(str(into))
    model = faster_whisper.WhisperModel(str(into), device="cpu", compute_type="float32", cpu_threads=1)
    thresholds = dict.fromkeys(("compression_ratio_threshold", "log_prob_threshold", "no_speech_threshold"))
    segments, _ = model.transcribe(
        np.pad(samples, (0, SECONDS * SAMPLE_RATE - len(samples))),
        language="en",
        beam_size=1,
        temperature=0.0,
        without_timestamps=True,
        condition_on_previous_text=False,
        **thresholds,
    )
    return [token for segment in segments for token in segment.tokens]


@pytest.mark.slow
@pytest.mark.parametrize("depth", [4, 3])
def test_faster_whisper_writes_our_tokens_of_a_pruned_checkpoint(tmp_path: Path, depth: int) -> None:
    pytest.importorskip("faster_whisper")
    samples, _ = soundfile.read(real_clip(), dtype="float32")
    convert_ctranslate2(real_model("tiny.en", tmp_path / "ct2"), tmp_path / "hf")
    prune_model(tmp_path / "hf", tmp_path / "small", depth)
    ours = our_tokens(tmp_path / "small", samples)
    theirs = their_tokens(tmp_path / "small", samples, tmp_path / "back")
    assert len(ours.tokens) > 5 and (depth < 4 or not ours.looped)
    assert (theirs[: len(ours.tokens)] if ours.looped else theirs) == ours.tokens
