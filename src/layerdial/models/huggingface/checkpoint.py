"""Hugging Face CTC checkpoints: loaded from a folder or the hub, made anew, or given a new head.

An error is one line that names what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
from layerdial.models.description import tokenizer_of
from layerdial.models.huggingface.adapters import convolutions_after, load_language
from layerdial.models.huggingface.ctc import HuggingFaceCTC, silence_transformers
from layerdial.models.huggingface.families import FAMILIES, Family
from layerdial.models.huggingface.parts import Parts
from layerdial.models.huggingface.processor import (
    HuggingFaceFeatures,
    HuggingFaceTokenizer,
    vocabulary_size,
)
from layerdial.models.huggingface.whisper import WhisperNetwork
from layerdial.models.huggingface.whisper_checkpoint import whisper_ctc_of, whisper_of
from layerdial.models.huggingface.whisper_ctc import (
    WhisperCTC,
    WhisperForCTC,
    ask_for_ctc_head,
    has_ctc_head,
)
from layerdial.models.tensors import load_tensors
from layerdial.text.tokenizer import Tokenizer, load_tokenizer
from layerdial.utils.files import read_json

_UNUSED = ("masked_spec_embed",)  # a checkpoint may lack it: part of the library's own SpecAugment
_HEADS = ("lm_head", "ctc_head")
_WANTED = "a CTC model comes with preprocessor_config.json or processor_config.json, and its tokenizer"


_KNOWN = f"CTC models ({', '.join(family.name for family in FAMILIES.values() if family.network)}) and Whisper"


def load_hugging_face(
    folder: Path, changes: Mapping[str, Any] | None = None
) -> tuple[HuggingFaceCTC | WhisperNetwork, Tokenizer]:
    """Return a checkpoint of `save_pretrained` as a dynamic network (in `eval()`, float32), and its tokenizer.

    `changes` replace those keys of its config that have no weights. Raises `UserError` for another kind of model, and
    for weights that are missing or of another shape. It is also raised for a head that does not fit the tokenizer, and
    for a folder without processor.
    """
    config = _read_config(folder, changes)
    model = _load_model(folder, config)
    if has_ctc_head(config):
        return whisper_ctc_of(model, extractor_for(folder, {}), folder), tokenizer_of(folder, config.vocab_size)
    processor = load_processor(folder)
    if config.model_type == "whisper":
        return whisper_of(model, processor, folder)
    tokenizer = HuggingFaceTokenizer(processor, model.config.vocab_size, str(folder))
    return _dynamic(model, processor, tokenizer), tokenizer


def with_new_head(
    folder: Path, processor: Any, changes: Mapping[str, Any] | None = None
) -> tuple[HuggingFaceCTC, HuggingFaceTokenizer]:
    """Return a checkpoint's encoder, pre-trained or fine-tuned, under a random head for the processor's vocabulary.

    Its inputs are as before: the feature extractor stays the checkpoint's.
    """
    config = _read_config(folder, changes)
    if config.model_type == "whisper":
        raise UserError(
            f"{folder} is Whisper, whose decoder writes its own tokens; leave `tokenizer` out of the recipe, or set "
            "model.head: ctc"
        )
    if not FAMILIES[config.model_type].new_head:
        raise UserError(
            f"{folder} is {FAMILIES[config.model_type].name}, whose blocks depend on its vocabulary, so it gets no new "
            "head; leave `tokenizer` out of the recipe"
        )
    processor.feature_extractor = extractor_for(folder, {})
    for key, value in _vocabulary(processor).items():
        setattr(config, key, value)
    model = _load_model(folder, config, new_head=True)
    tokenizer = HuggingFaceTokenizer(processor, config.vocab_size, str(folder))
    return _dynamic(model, processor, tokenizer), tokenizer


def is_whisper_ctc(folder: Path) -> bool:
    """Return whether a folder holds Whisper's encoder under a CTC head. Raises `UserError` as loading it does."""
    return has_ctc_head(_read_config(folder, None))


def with_ctc_head(
    folder: Path, tokenizer: Tokenizer, changes: Mapping[str, Any] | None = None
) -> tuple[WhisperCTC, Tokenizer]:
    """Return the encoder of a Whisper checkpoint under a random CTC head for the tokens of `tokenizer`.

    The folder may have a decoder, which is left out, or the encoder alone. Raises `UserError` for another model.
    """
    config = _read_config(folder, changes)
    if config.model_type != "whisper":
        raise UserError(f"{folder} is of type {config.model_type}, a CTC model as it is; leave model.head out")
    extractor = extractor_for(folder, {})
    ask_for_ctc_head(config, len(tokenizer.tokens))
    model = _load_model(folder, config, new_head=True)
    model.ctc_head.reset_parameters()  # also where the folder has one of that size, which is for other tokens
    return whisper_ctc_of(model, extractor, folder), tokenizer


def new_hugging_face(settings: Mapping[str, Any], processor: Any) -> tuple[HuggingFaceCTC, HuggingFaceTokenizer]:
    """Return a network with random weights, and its tokenizer.

    `settings` are keys of the library's config, `model_type` among them.
    """
    kind = settings.get("model_type")
    family = FAMILIES.get(str(kind))
    if family is None:
        *known, last = [kind for kind, family in FAMILIES.items() if family.from_scratch]
        raise UserError(f"model.config.model_type is {kind!r}; choose {', '.join(known)} or {last}")
    if not family.from_scratch:
        name = family.name
        raise UserError(f"{name} is not trained from scratch here; begin with a checkpoint: init=FOLDER_OR_HUB_ID")
    given = {k: v for k, v in settings.items() if k != "model_type"} | _vocabulary(processor)
    default = AutoConfig.for_model(kind)
    _check_keys(default, given, "model.config")
    _check_shape({**default.to_dict(), **given})
    try:
        config = AutoConfig.for_model(kind, **given)
        model = getattr(transformers, family.model)(config)
    except Exception as error:  # an inconsistent config raises errors of any class
        raise UserError(f"model.config does not make a network: {type(error).__name__}: {_first_line(error)}") from None
    tokenizer = HuggingFaceTokenizer(processor, config.vocab_size, "model.config")
    return _dynamic(model.eval(), processor, tokenizer), tokenizer


def _check_shape(config: Mapping[str, Any]) -> None:
    _refuse(config, "model.config")
    if config["num_hidden_layers"] < 1:
        raise UserError(
            f"model.config.num_hidden_layers is {config['num_hidden_layers']}; at least one block is needed"
        )
    found = [len(config[key]) for key in ("conv_dim", "conv_kernel", "conv_stride")]
    if set(found) != {config["num_feat_extract_layers"]}:
        raise UserError(
            f"model.config: conv_dim, conv_kernel and conv_stride have {found[0]}, {found[1]} and {found[2]} entries, "
            f"num_feat_extract_layers is {config['num_feat_extract_layers']}; all four must agree"
        )


def load_plain(folder: Path) -> tuple[PreTrainedModel, Callable[[Path], object], Family]:
    """Return the library's model as it is stored, and its family.

    Between them is a function that writes into a folder what belongs to the model: the files of features and tokens.
    """
    config = _read_config(folder, None)
    save_beside = _beside_whisper_ctc(folder) if has_ctc_head(config) else load_processor(folder).save_pretrained
    model = _load_model(folder, config, dtype="auto")
    return model, save_beside, FAMILIES[config.model_type]


def _beside_whisper_ctc(folder: Path) -> Callable[[Path], object]:
    extractor, tokenizer = extractor_for(folder, {}), load_tokenizer(folder)

    def save(into: Path) -> None:
        extractor.save_pretrained(into)
        tokenizer.save(into)

    return save


def load_processor(folder: Path) -> Any:
    """Return a checkpoint's feature extractor and tokenizer. A language model beside them is not used."""
    try:
        with silence_transformers():
            processor = _read_processor(folder)
    except ImportError as error:
        raise UserError(f"{folder}: its processor needs a package that is missing: {_first_line(error)}") from None
    except Exception as error:  # the library raises OSError, ValueError, TypeError, KeyError and its tokenizers' own
        raise UserError(f"{folder} has no processor that can be read ({_first_line(error)}); {_WANTED}") from None
    if getattr(processor, "tokenizer", None) is None or getattr(processor, "feature_extractor", None) is None:
        found = type(processor).__name__
        raise UserError(f"{folder} has no tokenizer or no feature extractor, only a {found}; {_WANTED}")
    restore_word_delimiter(folder, processor.tokenizer)
    return processor


def restore_word_delimiter(folder: Path, tokenizer: Any) -> None:
    """Set the word delimiter of a tokenizer as the folder says it; the library takes `|` for every one when it loads.

    Without it, words would be glued together. Where no file says it and there is no `|`, a space is taken.
    """
    if not hasattr(tokenizer, "word_delimiter_token"):
        return
    said = [
        read_json(file).get("word_delimiter_token")
        for file in (folder / "tokenizer_config.json", folder / "special_tokens_map.json")
        if file.is_file()
    ]
    contents = [value.get("content") if isinstance(value, dict) else value for value in said]
    vocabulary = tokenizer.get_vocab()
    for delimiter in (*contents, "|", " "):
        if isinstance(delimiter, str) and delimiter in vocabulary:
            tokenizer._word_delimiter_token = delimiter  # the library's own setter is not reached
            return


def _read_processor(folder: Path) -> Any:
    try:
        return AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except ImportError:  # pyctcdecode, for a processor that brings a language model
        if not (folder / "vocab.json").is_file():
            raise
        return Wav2Vec2Processor.from_pretrained(folder, local_files_only=True)


def _load_model(
    folder: Path, config: PreTrainedConfig, new_head: bool = False, dtype: Any = torch.float32
) -> PreTrainedModel:
    """Return the library's own model, in `eval()`. Raises `UserError` unless every weight is there and fits."""
    kind: Any = WhisperForCTC if has_ctc_head(config) else getattr(transformers, FAMILIES[config.model_type].model)
    try:
        with silence_transformers():
            model, found = kind.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # reported below, in one line
                output_loading_info=True,
            )
    except Exception as error:  # OSError, RuntimeError, SafetensorError, UnpicklingError
        raise UserError(f"{folder}: its weights cannot be read: {_first_line(error)}") from None
    for file in sorted(folder.glob("model*.safetensors")):
        load_tensors(file)  # for its hash, where it has one: the library does not look
    for name in found["missing_keys"]:
        if _is_unused(name):
            torch.nn.init.uniform_(model.get_parameter(name))  # before version 5.23 the library leaves it uninitialised
    _check_weights(folder, found, new_head, FAMILIES[config.model_type].parts)
    if not new_head:
        load_language(folder, model)
    return model.eval()  # type: ignore[no-any-return]


def _check_weights(folder: Path, found: Mapping[str, Any], new_head: bool, parts: Parts) -> None:
    """Raise `UserError` for weights that the file lacks or has in another shape. A new head may differ."""
    missing = sorted(name for name in found["missing_keys"] if not _is_unused(name))
    mismatched = sorted((name, tuple(stored), tuple(wanted)) for name, stored, wanted in found["mismatched_keys"])
    if new_head:
        missing = [name for name in missing if not name.startswith(_HEADS)]
        mismatched = [entry for entry in mismatched if not entry[0].startswith(_HEADS)]
    of_blocks = f".{parts.blocks.rpartition('.')[2]}."
    left_over = sorted(name for name in found["unexpected_keys"] if of_blocks in name)
    if left_over:
        raise UserError(f"{folder} has weights of blocks that its config.json does not name, the first {left_over[0]}")
    if missing and missing[0].startswith("model.decoder"):
        raise UserError(
            f"{folder} has no decoder ({missing[0]} is missing), so it writes no text; give the whole checkpoint, or "
            "train a CTC head on it: model.head: ctc"
        )
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
    """Return the config of a checkpoint, for another network of that shape."""
    if folder is None:
        raise UserError("model.config is missing; for example model: {family: hf, config: {model_type: wavlm}}")
    config = _read_config(folder, None).to_dict()
    return {k: v for k, v in config.items() if k not in ("architectures", "transformers_version", "dtype")}


def extractor_for(folder: Path | None, settings: Mapping[str, Any]) -> Any:
    """Return the feature extractor of the initial checkpoint, or wav2vec2's for training from scratch."""
    if folder is not None:
        try:
            return AutoFeatureExtractor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # OSError, ValueError, ImportError
            raise UserError(
                f"{folder} has no feature extractor that can be read ({_first_line(error)}); preprocessor_config.json "
                "says how its inputs are made"
            ) from None
    # plain transformers feeds an attention mask to models with layer norm in their front end, to others none
    return Wav2Vec2FeatureExtractor(
        do_normalize=True, return_attention_mask=settings.get("feat_extract_norm") == "layer"
    )


def download(hub_id: str) -> Path:
    """Return the folder of a hub id's files, which are downloaded if need be.

    Without a network, the files of an earlier download are used.
    """
    try:
        folder = _fetch(hub_id, "*.json", "model*.safetensors", "*.txt", "*.model")
        if not any(folder.glob("model*.safetensors")):
            folder = _fetch(hub_id, "pytorch_model*.bin*")
    except Exception as error:  # no network, no such model, no access: each has its own class
        reason = _first_line(error)
        raise UserError(f"{hub_id} is neither a folder here nor a model that the hub gives ({reason})") from None
    return folder


def _fetch(hub_id: str, *patterns: str) -> Path:
    # a star matches slashes too: unless ignored, checkpoints and logs in folders would be downloaded
    return Path(snapshot_download(hub_id, allow_patterns=list(patterns), ignore_patterns=["*/*"]))


def _read_config(folder: Path, changes: Mapping[str, Any] | None) -> PreTrainedConfig:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # OSError, ValueError, KeyError, and the classes of strict configs
        raise UserError(
            f"{folder / 'config.json'} is no config of a known model ({_first_line(error)}); {_KNOWN} are"
        ) from None
    if config.model_type not in FAMILIES:
        found = ", ".join(config.architectures or [config.model_type])
        kind = "an encoder-decoder model" if config.is_encoder_decoder else f"of type {config.model_type}"
        raise UserError(f"{folder} holds {found}, {kind}; layerdial reads {_KNOWN}")
    _refuse(config.to_dict(), str(folder))
    _change(config, changes or {})
    return config


_REFUSED = {  # keys of a config, and what is wrong with a model that has them
    "conv_pos_batch_norm": "with which padding would change results; it is not read",
    "conv_kernel_size": "a convolution after block 0, which could then not be left out; it is not read",
    "use_intermediate_ffn_before_adapter": "a feed-forward after the encoder, which layerdial does not run",
}


def _refuse(config: Mapping[str, Any], where: str) -> None:
    for key, reason in _REFUSED.items():
        if config.get(key):
            raise UserError(f"{where} has {key}, {reason}")
    family = FAMILIES[config["model_type"]]
    if config.get("add_adapter") and not family.parts.adapted:
        raise UserError(f"{where} has add_adapter, which the library has no code for in {family.name}; leave it out")


def _change(config: PreTrainedConfig, changes: Mapping[str, Any]) -> None:
    """Set what a recipe may change of a checkpoint's config. Parakeet's dropouts are in its encoder's config."""
    owner = getattr(config, "encoder_config", config)
    _check_keys(owner, changes, "model.config")
    for key, value in changes.items():
        if "dropout" not in key:
            raise UserError(f"model.config.{key}: over a checkpoint only dropouts can be changed")
        try:
            setattr(owner, key, value)
        except Exception as error:  # strict configs check types, with a class of their own
            raise UserError(f"model.config.{key} cannot be {value!r}: {_first_line(error)}") from None


def _check_keys(config: PreTrainedConfig, keys: Iterable[str], what: str) -> None:
    known = config.to_dict()
    for key in keys:
        if key not in known:
            raise UserError(f"{what}: a {config.model_type} config has no key {key!r}")


def _vocabulary(processor: Any) -> dict[str, int]:
    tokenizer = processor.tokenizer
    return {"vocab_size": vocabulary_size(tokenizer), "pad_token_id": tokenizer.pad_token_id}


def _dynamic(model: PreTrainedModel, processor: Any, tokenizer: HuggingFaceTokenizer) -> HuggingFaceCTC:
    makes, takes = processor.feature_extractor.model_input_names[0], model.main_input_name
    if makes != takes:
        raise UserError(f"the processor makes {makes}, but a {model.config.model_type} model takes {takes}")
    family = FAMILIES[model.config.model_type]
    assert family.network is not None
    fewest = getattr(model.config, "squeeze_factor", 1)
    convolutions = family.convolutions(model.config) + convolutions_after(model.config)
    features = HuggingFaceFeatures(processor.feature_extractor, convolutions, fewest)
    return family.network(model, features, tokenizer.blank, family.parts)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
