"""Whisper checkpoints as dynamic networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from layerdial.audio.features import WhisperMel
from layerdial.audio.files import SAMPLE_RATE
from layerdial.errors import UserError
from layerdial.models.huggingface.whisper import WhisperNetwork
from layerdial.models.huggingface.whisper_ctc import WhisperCTC
from layerdial.models.huggingface.whisper_tokenizer import WhisperTextTokenizer
from layerdial.text.ctc import BLANK
from layerdial.text.prompt import prompt_of


def whisper_of(model: Any, processor: Any, folder: Path) -> tuple[WhisperNetwork, WhisperTextTokenizer]:
    """Return the dynamic network of a library's model, and its tokenizer; `UserError` where they do not fit."""
    config = model.config
    tokenizer = WhisperTextTokenizer(processor, config.vocab_size, str(folder))
    features = _features(processor.feature_extractor, config, folder)
    prompt = prompt_of(tokenizer.tokens, *language_and_task(model.generation_config))
    return WhisperNetwork(model, features, prompt), tokenizer


def whisper_ctc_of(model: PreTrainedModel, extractor: Any, folder: Path) -> WhisperCTC:
    """Return the dynamic network of an encoder with a CTC head; `UserError` where its inputs do not fit."""
    return WhisperCTC(model, _features(extractor, model.config, folder), BLANK)


def language_and_task(settings: Any) -> tuple[str | None, str]:
    """Return language and task that a checkpoint's generation_config.json sets; English unless it says otherwise.

    Checkpoints of English alone have neither, and get no language token.
    """
    if not getattr(settings, "is_multilingual", False):
        return None, "transcribe"
    language = getattr(settings, "language", None) or "en"
    return language.strip("<|>"), getattr(settings, "task", None) or "transcribe"


def _features(extractor: Any, config: PreTrainedConfig, folder: Path) -> WhisperMel:
    made = {"hop_length": 160, "n_fft": 400, "sampling_rate": SAMPLE_RATE, "feature_size": config.num_mel_bins}
    for name, wanted in made.items():
        found = getattr(extractor, name, None)
        if found != wanted:
            raise UserError(f"{folder}: its preprocessor has {name} {found}, its encoder takes {wanted}; copy it again")
    return WhisperMel(config.num_mel_bins)
