"""Hugging Face CTC checkpoints: loaded from a folder or the hub, made anew, or given a new head.

What does not fit is said in one line that names what was found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
)

from layerdial.errors import UserError
from layerdial.models.hf_ctc import FastConformerCTC, HuggingFaceCTC, SpeechTransformerCTC, quiet
from layerdial.models.hf_processor import Convolution, HuggingFaceFeatures, HuggingFaceTokenizer

_UNUSED = ("masked_spec_embed",)  # a checkpoint may lack it: part of the library's own SpecAugment
_HEADS = ("lm_head", "ctc_head")
_WANTED = "a CTC model comes with preprocessor_config.json or processor_config.json, and its tokenizer"


@dataclass(frozen=True)
class _Family:
    """The library's class, by name, and ours."""

    model: str
    network: type[HuggingFaceCTC]


_FAMILIES = {  # by the library's model_type
    "wavlm": _Family("WavLMForCTC", SpeechTransformerCTC),
    "wav2vec2": _Family("Wav2Vec2ForCTC", SpeechTransformerCTC),
    "hubert": _Family("HubertForCTC", SpeechTransformerCTC),
    "parakeet_ctc": _Family("ParakeetForCTC", FastConformerCTC),
}
_KNOWN = "WavLM, wav2vec2, HuBERT and Parakeet CTC models"


def load_hugging_face(
    folder: Path, changes: Mapping[str, Any] | None = None
) -> tuple[HuggingFaceCTC, HuggingFaceTokenizer]:
    """A CTC checkpoint as `save_pretrained` lays it out: the dynamic network (in `eval()`, float32) and its tokenizer.

    `changes` go over the keys of its config that have no weights. Raises `UserError` for another kind of model, weights
    that are missing or of another shape, a head that does not fit the tokenizer, and a folder without processor.
    """
    processor = load_processor(folder)
    config = _read_config(folder, changes)
    model = _load_model(folder, config)
    tokenizer = HuggingFaceTokenizer(processor, config.vocab_size, str(folder))
    return _dynamic(model, processor, tokenizer), tokenizer


def with_new_head(
    folder: Path, processor: Any, changes: Mapping[str, Any] | None = None
) -> tuple[HuggingFaceCTC, HuggingFaceTokenizer]:
    """The encoder of a checkpoint, pre-trained or fine-tuned, under a random head for another vocabulary."""
    config = _read_config(folder, {**(changes or {}), **_vocabulary(processor)})
    model = _load_model(folder, config, new_head=True)
    tokenizer = HuggingFaceTokenizer(processor, config.vocab_size, str(folder))
    return _dynamic(model, processor, tokenizer), tokenizer


def new_hugging_face(settings: Mapping[str, Any], processor: Any) -> tuple[HuggingFaceCTC, HuggingFaceTokenizer]:
    """A network with random weights; `settings` are keys of the library's config, `model_type` among them."""
    kind = settings.get("model_type")
    if kind not in _FAMILIES:
        raise UserError(f"model.config.model_type is {kind!r}; choose one of {', '.join(_FAMILIES)}")
    config = AutoConfig.for_model(kind)
    _change(config, {k: v for k, v in settings.items() if k != "model_type"}, "model.config")
    _change(config, _vocabulary(processor), "the tokenizer")
    try:
        model = getattr(transformers, _FAMILIES[kind].model)(config)
    except (ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"model.config does not make a network: {_first_line(error)}") from None
    tokenizer = HuggingFaceTokenizer(processor, config.vocab_size, "model.config")
    return _dynamic(model.eval(), processor, tokenizer), tokenizer


def load_plain(folder: Path) -> tuple[PreTrainedModel, Any, Any]:
    """The library's model as it is stored, its processor, and its encoder, whose `layers` are the blocks."""
    processor, config = load_processor(folder), _read_config(folder, None)
    model = _load_model(folder, config, dtype="auto")
    return model, processor, _FAMILIES[config.model_type].network.encoder_of(model)


def load_processor(folder: Path) -> Any:
    """Feature extractor and tokenizer of a checkpoint; a language model beside them is not used."""
    try:
        with quiet():
            processor = _read_processor(folder)
    except ImportError as error:
        raise UserError(f"{folder}: its processor needs a package that is missing: {_first_line(error)}") from None
    except Exception as error:  # the library raises OSError, ValueError, TypeError, KeyError and its tokenizers' own
        raise UserError(f"{folder} has no processor that can be read ({_first_line(error)}); {_WANTED}") from None
    if getattr(processor, "tokenizer", None) is None or getattr(processor, "feature_extractor", None) is None:
        found = type(processor).__name__
        raise UserError(f"{folder} has no tokenizer or no feature extractor, only a {found}; {_WANTED}")
    return processor


def _read_processor(folder: Path) -> Any:
    try:
        return AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except ImportError:  # pyctcdecode, for a processor that brings a language model
        if not (folder / "alphabet.json").is_file():
            raise
        return Wav2Vec2Processor.from_pretrained(folder, local_files_only=True)


def _load_model(
    folder: Path, config: PreTrainedConfig, new_head: bool = False, dtype: Any = torch.float32
) -> PreTrainedModel:
    """The library's own model, in `eval()`; `UserError` unless every weight is there and fits."""
    kind = getattr(transformers, _FAMILIES[config.model_type].model)
    try:
        with quiet():
            model, found = kind.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # and say it in our words
                output_loading_info=True,
            )
    except Exception as error:  # OSError, RuntimeError, SafetensorError, UnpicklingError
        raise UserError(f"{folder}: its weights cannot be read: {_first_line(error)}") from None
    for name in found["missing_keys"]:
        if _is_unused(name):
            torch.nn.init.uniform_(model.get_parameter(name))  # before version 5.23 the library leaves it as memory was
    _check_weights(folder, found, new_head)
    return model.eval()  # type: ignore[no-any-return]


def _check_weights(folder: Path, found: Mapping[str, Any], new_head: bool) -> None:
    """`UserError` for weights that the file lacks or has in another shape; a new head may differ."""
    missing = sorted(name for name in found["missing_keys"] if not _is_unused(name))
    mismatched = sorted((name, tuple(stored), tuple(wanted)) for name, stored, wanted in found["mismatched_keys"])
    if new_head:
        missing = [name for name in missing if not name.startswith(_HEADS)]
        mismatched = [entry for entry in mismatched if not entry[0].startswith(_HEADS)]
    if missing and missing[0].startswith(_HEADS):
        raise UserError(
            f"{folder} has no CTC head ({missing[0]} is missing); train one first, as recipes/wavlm/reference.yaml does"
        )
    if missing:
        raise UserError(f"{folder} lacks {len(missing)} weights, the first {missing[0]}; copy it again")
    if mismatched:
        name, stored, wanted = mismatched[0]
        raise UserError(f"{folder}: {name} has shape {stored}, its config.json asks for {wanted}")


def _is_unused(name: str) -> bool:
    return name.rsplit(".", 1)[-1] in _UNUSED


def settings_of(folder: Path | None) -> dict[str, Any]:
    """The config of a checkpoint, for another network of that shape."""
    if folder is None:
        raise UserError("model.config is missing; for example model: {family: hf, config: {model_type: wavlm}}")
    config = _read_config(folder, None).to_dict()
    return {k: v for k, v in config.items() if k not in ("architectures", "transformers_version", "dtype")}


def extractor_for(folder: Path | None, settings: Mapping[str, Any]) -> Any:
    """The feature extractor of the checkpoint to begin with; from scratch, wav2vec2's."""
    if folder is not None:
        try:
            return AutoFeatureExtractor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # OSError, ValueError, ImportError
            raise UserError(
                f"{folder} has no feature extractor that can be read ({_first_line(error)}); preprocessor_config.json "
                "says how its encoder hears"
            ) from None
    # plain transformers feeds an attention mask to models with layer norm in their front end, to others none
    return Wav2Vec2FeatureExtractor(
        do_normalize=True, return_attention_mask=settings.get("feat_extract_norm") == "layer"
    )


def download(hub_id: str) -> Path:
    """Where the files of a hub id are, after a download if need be; without a network, those of an earlier one."""
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(hub_id, allow_patterns=["pytorch_model*.bin"]))
    except Exception as error:  # no network, no such model, no access: each has its own class
        reason = _first_line(error)
        raise UserError(f"{hub_id} is neither a folder here nor a model that the hub gives ({reason})") from None
    return folder


def _read_config(folder: Path, changes: Mapping[str, Any] | None) -> PreTrainedConfig:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # OSError, ValueError, KeyError, and the classes of strict configs
        raise UserError(
            f"{folder / 'config.json'} is no config of a known model ({_first_line(error)}); {_KNOWN} are"
        ) from None
    if config.model_type not in _FAMILIES:
        found = ", ".join(config.architectures or [config.model_type])
        kind = "an encoder-decoder model" if config.is_encoder_decoder else f"of type {config.model_type}"
        raise UserError(f"{folder} holds {found}, {kind}; layerdial reads {_KNOWN}")
    if getattr(config, "add_adapter", False):
        raise UserError(f"{folder} has add_adapter, convolutions after the encoder, which layerdial does not run")
    _change(config, changes or {}, "model.config")
    return config


def _change(config: PreTrainedConfig, changes: Mapping[str, Any], what: str) -> None:
    """Set keys that the config has; Parakeet keeps those of its encoder in a config of their own."""
    for key, value in changes.items():
        inner = getattr(config, "encoder_config", None)
        owner = inner if inner is not None and hasattr(inner, key) and key != "vocab_size" else config
        if not hasattr(owner, key):
            raise UserError(f"{what}: a {config.model_type} config has no key {key!r}")
        if isinstance(getattr(owner, key), PreTrainedConfig):
            _change(getattr(owner, key), value, f"{what}.{key}")
            continue
        try:
            setattr(owner, key, value)
        except Exception as error:  # strict configs check types, with a class of their own
            raise UserError(f"{what}: {key} cannot be {value!r}: {_first_line(error)}") from None


def _vocabulary(processor: Any) -> dict[str, int]:
    return {"vocab_size": len(processor.tokenizer), "pad_token_id": processor.tokenizer.pad_token_id}


def _dynamic(model: PreTrainedModel, processor: Any, tokenizer: HuggingFaceTokenizer) -> HuggingFaceCTC:
    features = HuggingFaceFeatures(processor.feature_extractor, _convolutions(model.config))
    return _FAMILIES[model.config.model_type].network(model, features, tokenizer.blank)


def _convolutions(config: PreTrainedConfig) -> list[Convolution]:
    """(kernel, stride, padding) of each strided convolution of the front end."""
    if config.model_type != "parakeet_ctc":
        return [(kernel, stride, 0) for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True)]
    inner = config.encoder_config
    kernel = inner.subsampling_conv_kernel_size
    one = (kernel, inner.subsampling_conv_stride, (kernel - 1) // 2)
    return [one] * int(math.log2(inner.subsampling_factor))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
