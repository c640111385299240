"""Tiny random Hugging Face CTC checkpoints: every kind of model that is read, built from its config, without a hub."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioForCTC,
    GraniteSpeech5CTCConfig,
    GraniteSpeech5EncoderConfig,
    GraniteSpeech5ForCTC,
    HubertConfig,
    HubertForCTC,
    LasrCTCConfig,
    LasrEncoderConfig,
    LasrFeatureExtractor,
    LasrForCTC,
    LasrProcessor,
    LasrTokenizer,
    ParakeetCTCConfig,
    ParakeetEncoderConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    ParakeetProcessor,
    ParakeetTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SeamlessM4TFeatureExtractor,
    SEWConfig,
    SEWDConfig,
    SEWDForCTC,
    SEWForCTC,
    UniSpeechConfig,
    UniSpeechForCTC,
    UniSpeechSatConfig,
    UniSpeechSatForCTC,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2BertProcessor,
    Wav2Vec2Config,
    Wav2Vec2ConformerConfig,
    Wav2Vec2ConformerForCTC,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WavLMConfig,
    WavLMForCTC,
)

from layerdial.audio import granite_mel

VARIANTS: tuple[str, ...] = (
    "wavlm-base",
    "wavlm-large",
    "wav2vec2-base",
    "wav2vec2-large",
    "hubert-base",
    "hubert-large",
    "parakeet",
)
# of each family and each kind of normalisation one; the others wait for `make test`
QUICK = ("wavlm-base", "wav2vec2-large", "parakeet")


def variants(*names: str) -> list[Any]:
    """For `parametrize`: `names` (default: all), those that are not quick marked as medium."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.medium) for name in names or VARIANTS]


KINDS: dict[str, tuple[type[Any], type[Any], dict[str, Any]]] = {
    "wavlm": (WavLMConfig, WavLMForCTC, {"num_buckets": 32, "max_bucket_distance": 64}),  # two seconds reach the last
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2ForCTC, {}),
    "hubert": (HubertConfig, HubertForCTC, {}),
    "unispeech": (UniSpeechConfig, UniSpeechForCTC, {}),
    "unispeech_sat": (UniSpeechSatConfig, UniSpeechSatForCTC, {}),
    "data2vec": (Data2VecAudioConfig, Data2VecAudioForCTC, {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}),
    "sew": (SEWConfig, SEWForCTC, {"conv_kernel": [10, *[3] * 4, 2, 2], "conv_stride": [5, *[2] * 6]}),
    "sew_d": (
        SEWDConfig,
        SEWDForCTC,
        {
            "conv_kernel": [10, *[3] * 4, 2, 2],
            "conv_stride": [5, *[2] * 6],
            "position_buckets": 16,
            "max_position_embeddings": 64,
        },
    ),
    "conformer": (Wav2Vec2ConformerConfig, Wav2Vec2ConformerForCTC, {"conv_depthwise_kernel_size": 7}),
    "bert": (
        Wav2Vec2BertConfig,
        Wav2Vec2BertForCTC,
        {"conv_depthwise_kernel_size": 7, "left_max_position_embeddings": 16},
    ),
}

# in the order of facebook/wav2vec2-base-960h
UPPER = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
# as fine-tuning scripts make it: no start and end, the blank last
LOWER = ("|", *"'abcdefghijklmnopqrstuvwxyz", "[UNK]", "[PAD]")

LETTERS = "'abcdefghijklmnopqrstuvwxyz"
PIECES = 52  # of Parakeet's tokenizer, <unk> included and <pad> not
SENTENCES = ("low middle high", "the low and the middle", "high low, middle low", "she's on a higher, mid or lower one")


def tiny_model(variant: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Four blocks of width 16 in `eval()`, all weights random; `changes` to the config (Parakeet: the encoder's)."""
    tokenizer = tiny_tokenizer(variant)
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    size = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    if variant == "parakeet":
        encoder = ParakeetEncoderConfig(**{**size, "subsampling_conv_channels": 8, "num_mel_bins": 80, **changes})
        return randomised(ParakeetForCTC(ParakeetCTCConfig(encoder_config=encoder, **ids)), seed)
    if variant == "lasr":
        encoder = LasrEncoderConfig(**{**size, "subsampling_conv_channels": 8, "conv_kernel_size": 8, **changes})
        return randomised(LasrForCTC(LasrCTCConfig(encoder_config=encoder, **ids)), seed)
    if variant == "granite":
        encoder = GraniteSpeech5EncoderConfig(
            **{**size, "num_hidden_layers": 6, "vocab_size": ids["vocab_size"], "context_size": 8, **changes}
        )
        return randomised(GraniteSpeech5ForCTC(GraniteSpeech5CTCConfig(encoder_config=encoder, **ids)), seed)
    kind, _, flavour = variant.partition("-")
    config_class, model_class, own = KINDS[kind]
    numbers: dict[str, Any] = {
        **size,
        **ids,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "conv_dim": [8] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "feat_extract_norm": "group" if flavour == "base" else "layer",
        "do_stable_layer_norm": flavour == "large",
        "conv_bias": flavour == "large",
        **own,
    }
    if kind == "unispeech_sat":  # its config takes no None
        numbers |= {name: numbers[name] or 0 for name in ("bos_token_id", "eos_token_id")}
    if kind == "conformer":
        numbers["position_embeddings_type"] = flavour
    return randomised(model_class(config_class(**{**numbers, **changes})), seed)


def randomised(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """`model` with every weight drawn anew, in an order that depends on the names only."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in sorted(learned(model)):
            values.copy_(draw(name, values, generator))
    return model.float().eval()


def learned(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Parameters, and the averages of batch norms."""
    yield from model.named_parameters()
    yield from ((name, values) for name, values in model.named_buffers() if "running_" in name)


def draw(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    """Values for one weight: of a size that keeps activations near one, and frames apart from each other."""
    normal = torch.randn(like.shape, generator=generator)
    if name.endswith(("running_var", "weight.original0")):  # variances; the lengths of weight_norm
        return torch.rand(like.shape, generator=generator) + 0.5
    if name.endswith("gru_rel_pos_const") or (like.dim() == 1 and name.endswith("weight")):  # norms
        return 1 + 0.2 * normal
    if name.endswith(("rel_attn_embed.weight", "rel_embeddings.weight", "embedding.weight", "masked_spec_embed")):
        return normal
    if like.dim() == 1 or name.endswith(("bias_u", "bias_v")):
        return 0.1 * normal
    return normal * gain(name, like) / like[0].numel() ** 0.5


def gain(name: str, like: Tensor) -> float:
    """Attention that looks at some frames but adds little: a deep average would leave all frames the same."""
    kind = name.split(".")[-2]
    if kind.endswith(("q_proj", "k_proj", "linear_q", "linear_k", "query_proj", "key_proj")):
        return 2.0
    if kind in ("v_proj", "out_proj", "o_proj", "linear_v", "linear_out", "value_proj"):
        return 0.5
    return 1.4 if like.dim() > 2 else 1.0


class GraniteSpeech5FeatureExtractor:
    """In the place of the library's class of this name, which needs torchaudio; tests/audio compares them."""

    model_input_names = ("input_features", "attention_mask")
    sampling_rate, n_fft, win_length, hop_length = 16000, 512, 400, 160
    num_mel_bins, frame_stacking, delta_win_length, logmel_floor_db = 80, 2, 3, 8.0

    def __call__(self, samples: np.ndarray, **keywords: Any) -> dict[str, Any]:
        made = torch.from_numpy(granite_mel.log_mel(samples, self.num_mel_bins)[None])
        return {"input_features": made, "attention_mask": torch.ones(made.shape[:2], dtype=torch.int64)}

    def to_dict(self) -> dict[str, Any]:
        return {"feature_extractor_type": type(self).__name__, "num_mel_bins": self.num_mel_bins}

    def save_pretrained(self, folder: Path) -> None:
        (folder / "preprocessor_config.json").write_text(json.dumps(self.to_dict()))


class GraniteProcessor:
    """A processor around it, which the library's own would refuse."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.feature_extractor, self.tokenizer = GraniteSpeech5FeatureExtractor(), tokenizer

    def save_pretrained(self, folder: Path) -> None:
        self.feature_extractor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def tiny_processor(variant: str) -> Any:
    """Feature extractor and tokenizer as the real checkpoint of that kind has them."""
    tokenizer = tiny_tokenizer(variant)
    if variant == "parakeet":
        return ParakeetProcessor(ParakeetFeatureExtractor(feature_size=80), tokenizer)
    if variant == "lasr":
        return LasrProcessor(LasrFeatureExtractor(), tokenizer)
    if variant == "granite":
        return GraniteProcessor(tokenizer)
    if variant == "bert":
        return Wav2Vec2BertProcessor(SeamlessM4TFeatureExtractor(), tokenizer)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=variant.endswith("large"))
    return Wav2Vec2Processor(extractor, tokenizer)


def tiny_tokenizer(variant: str) -> PreTrainedTokenizerBase:
    """Upper-case letters and blank first, lower-case letters and blank last, or the pieces of Parakeet."""
    if variant == "parakeet":
        return pieces()
    if variant == "lasr":
        return LasrTokenizer(vocab=[(token, -1.0) for token in ("<pad>", "</s>", "<unk>", "▁", *LETTERS)], extra_ids=0)
    if variant.endswith("base"):
        return letters(UPPER)
    return letters(LOWER, unk_token="[UNK]", pad_token="[PAD]", bos_token=None, eos_token=None)


def letters(tokens: Iterable[str], **special: str | None) -> Wav2Vec2CTCTokenizer:
    with TemporaryDirectory() as folder:
        file = Path(folder, "vocab.json")
        file.write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(str(file), **special)


def pieces() -> ParakeetTokenizer:
    """Byte pairs with ▁ for the space, <unk> first and the blank <pad> last, as converted from NeMo."""
    backend = Tokenizer(BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")]
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    alphabet = ["▁", *"',abcdefghijklmnopqrstuvwxyz"]
    trainer = BpeTrainer(vocab_size=PIECES, special_tokens=["<unk>"], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(SENTENCES, trainer)
    tokenizer = ParakeetTokenizer(tokenizer_object=backend, clean_up_tokenization_spaces=False)
    pad, unk = (AddedToken(token, normalized=False, special=True) for token in ("<pad>", "<unk>"))
    tokenizer.add_tokens([pad])
    tokenizer.add_special_tokens({"pad_token": pad, "unk_token": unk})
    return tokenizer


def save_tiny(folder: Path, variant: str, seed: int = 0, **changes: Any) -> Path:
    """Model and processor in `folder`, with one output for each token."""
    tiny_model(variant, seed, **changes).save_pretrained(folder)
    tiny_processor(variant).save_pretrained(folder)
    return folder
