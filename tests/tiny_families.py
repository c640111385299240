"""Every family of CTC models as a tiny random checkpoint, for tests of facts that hold for all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from layerdial.models.huggingface import checkpoint
from tiny_hf import save_tiny, tiny_processor


@dataclass(frozen=True)
class Case:
    """A family in one of its kinds, with changes to its config. `always` blocks halve time, and cannot be left out."""

    variant: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    always: int = 0

    def save(self, folder: Path, n_blocks: int = 4) -> Path:
        return save_tiny(folder, self.variant, **{**self.changes, "num_hidden_layers": n_blocks + self.always})


ADAPTED = {"add_adapter": True, "num_adapter_layers": 2, "output_hidden_size": 24}
CASES = {
    "wavlm": Case("wavlm-large"),
    "wav2vec2": Case("wav2vec2-base"),
    "wav2vec2, with languages": Case("wav2vec2-large", {"adapter_attn_dim": 4}),
    "wav2vec2, adapted": Case("wav2vec2-large", {**ADAPTED, "output_hidden_size": 16}),
    "hubert": Case("hubert-large"),
    "unispeech": Case("unispeech-base"),
    "unispeech, pre-norm": Case("unispeech-large"),
    "unispeech-sat": Case("unispeech_sat-large"),
    "data2vec-audio": Case("data2vec-large"),
    "sew": Case("sew-base"),
    "sew, not projected": Case("sew-large", {"conv_dim": [*[8] * 6, 16]}),
    "sew-d": Case("sew_d-large"),
    "wav2vec2-conformer": Case("conformer-relative"),
    "wav2vec2-conformer, rotary": Case("conformer-rotary"),
    "wav2vec2-bert": Case("bert"),
    "wav2vec2-bert, adapted": Case("bert", ADAPTED),
    "parakeet_ctc": Case("parakeet"),
    "lasr_ctc": Case("lasr"),
    "granite_speech5_ctc": Case("granite", always=2),
}


@contextmanager
def granite_without_torchaudio() -> Iterator[None]:
    """Inside, Granite's processor is read with the stand-in for its feature extractor, which needs torchaudio."""
    own = checkpoint.load_processor

    def load(folder: Path) -> Any:
        config = json.loads((folder / "config.json").read_text())
        return tiny_processor("granite") if config["model_type"] == "granite_speech5_ctc" else own(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "load_processor", load)
        yield
