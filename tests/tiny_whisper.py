"""A tiny random Whisper as a Hugging Face folder: 4 encoder blocks, 2 decoder blocks, texts of the letters a to h."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layerdial.data.manifest import write_cuts
from layerdial.models.huggingface.ctranslate2 import convert_ctranslate2
from tiny import sentences, speak, write_cut
from tiny_ctranslate2 import ctranslate2_weights, tiny_whisper, write_ctranslate2

N_BLOCKS = 4
_SIZE = {"encoder_layers": N_BLOCKS, "decoder_layers": 2, "d_model": 16, "max_target_positions": 48}


def save_whisper(folder: Path, n_mels: int = 80, **changes: Any) -> Path:
    """Write the checkpoint; positions for three seconds of audio unless `changes` to its config say otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    model = tiny_whisper(n_mels, **(_SIZE | {"max_source_positions": 150} | changes))
    source = write_ctranslate2(folder.with_name(f"{folder.name}-ct2"), ctranslate2_weights(model))
    convert_ctranslate2(source, folder)
    return folder


_WORDS = {"low": "ab", "middle": "abd", "high": "abgh"}  # which the tiny vocabulary can write, and decoding allows


def write_spoken(path: Path, count: int, longest: str = "") -> Path:
    """Write a manifest of utterances of two words; `longest` is the text of a last one."""
    texts = sentences(count, words=(2, 2))
    own = [" ".join(_WORDS[word] for word in text.split()) for text in texts] + ([longest] if longest else [])
    spoken = [*texts, *(["low"] if longest else [])]
    cuts = [write_cut(path.parent / "audio", f"cut-{i}", speak(said, i), own[i]) for i, said in enumerate(spoken)]
    write_cuts(iter(cuts), path)
    return path
