"""The families of CTC models that the library has, one row each.

Another one is a row here, one of the table in the documentation, and one of the tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from layerdial.audio.features import Convolution
from layerdial.models.huggingface.ctc import (
    FastConformerCTC,
    HuggingFaceCTC,
    RotaryBlocksAsOneLayer,
    SpeechTransformerCTC,
    WavLMBlocksAsOneLayer,
)
from layerdial.models.huggingface.granite import GraniteCTC, always_run, check_middle
from layerdial.models.huggingface.parts import Parts
from layerdial.models.huggingface.squeezed import SqueezedBlocks, SqueezedCTC
from layerdial.models.huggingface.whisper_ctc import WHISPER_PARTS
from layerdial.subset import BlockSubset


def _over_samples(config: Any) -> list[Convolution]:
    return [(kernel, stride, 0) for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True)]


def _of_parakeet(config: Any) -> list[Convolution]:
    inner = config.encoder_config
    kernel = inner.subsampling_conv_kernel_size
    one = (kernel, inner.subsampling_conv_stride, (kernel - 1) // 2)
    return [one] * int(math.log2(inner.subsampling_factor))


def _of_lasr(config: Any) -> list[Convolution]:
    inner = config.encoder_config
    return [(inner.subsampling_conv_kernel_size, inner.subsampling_conv_stride, 0)] * 2


def _of_granite(config: Any) -> list[Convolution]:
    return [(2, 2, 0)] * len(config.encoder_config.subsample_layers)


def _none(config: Any) -> list[Convolution]:
    return []


@dataclass(frozen=True)
class Family:
    """A family: its name, the library's class, layerdial's class (none: it is no CTC network), and its parts.

    `convolutions` returns (kernel, stride, padding) of each strided convolution before the blocks. `from_scratch` is
    whether it is trained from random weights here: batch norms keep the statistics that they begin with, so not those
    that have some. `new_head` is whether it can be given a head for another vocabulary. `always_run` returns how many
    first blocks cannot be left out; `check_pruned` raises `UserError` where a model of some blocks alone would compute
    something else. Both take the encoder's config.
    """

    name: str
    model: str
    network: type[HuggingFaceCTC] | None
    parts: Parts
    convolutions: Callable[[Any], list[Convolution]] = _over_samples
    from_scratch: bool = False
    new_head: bool = True
    always_run: Callable[[Any], int] = lambda config: 0
    check_pruned: Callable[[Any, BlockSubset], None] = lambda config, subset: None


_ADAPTED = ("conv",)
_SQUEEZED = ("layer_norm", "feature_projection", "feature_dropout")

FAMILIES: Mapping[str, Family] = {  # by the library's model_type
    "wavlm": Family(
        "WavLM",
        "WavLMForCTC",
        SpeechTransformerCTC,
        Parts(
            "wavlm",
            after="layer_norm",
            after_if="do_stable_layer_norm",
            adapted=_ADAPTED,
            blocks_as=WavLMBlocksAsOneLayer,
        ),
        from_scratch=True,
    ),
    "wav2vec2": Family(
        "wav2vec2",
        "Wav2Vec2ForCTC",
        SpeechTransformerCTC,
        Parts("wav2vec2", after="layer_norm", after_if="do_stable_layer_norm", adapted=_ADAPTED),
        from_scratch=True,
    ),
    "hubert": Family(
        "HuBERT",
        "HubertForCTC",
        SpeechTransformerCTC,
        Parts("hubert", after="layer_norm", after_if="do_stable_layer_norm"),
        from_scratch=True,
    ),
    "unispeech": Family(
        "UniSpeech",
        "UniSpeechForCTC",
        SpeechTransformerCTC,
        Parts("unispeech", after="layer_norm", after_if="do_stable_layer_norm"),
        from_scratch=True,
    ),
    "unispeech-sat": Family(
        "UniSpeech-SAT",
        "UniSpeechSatForCTC",
        SpeechTransformerCTC,
        Parts("unispeech_sat", after="layer_norm", after_if="do_stable_layer_norm"),
        from_scratch=True,
    ),
    "data2vec-audio": Family(
        "data2vec-audio",
        "Data2VecAudioForCTC",
        SpeechTransformerCTC,
        Parts("data2vec_audio", zeroed_before=("pos_conv_embed.layers",), adapted=_ADAPTED),
        from_scratch=True,
    ),
    "sew": Family(
        "SEW",
        "SEWForCTC",
        SqueezedCTC,
        Parts("sew", before=_SQUEEZED, after="upsample", blocks_as=SqueezedBlocks),
        from_scratch=True,
    ),
    "sew-d": Family(
        "SEW-D",
        "SEWDForCTC",
        SqueezedCTC,
        Parts("sew_d", before=_SQUEEZED, blocks="encoder.layer", after="upsample", blocks_as=SqueezedBlocks),
        from_scratch=True,
    ),
    "wav2vec2-conformer": Family(
        "wav2vec2-conformer",
        "Wav2Vec2ConformerForCTC",
        SpeechTransformerCTC,
        Parts("wav2vec2_conformer", after="layer_norm", zeroed=("conv_module.depthwise_conv",), adapted=_ADAPTED),
    ),
    "wav2vec2-bert": Family(
        "wav2vec2-BERT",
        "Wav2Vec2BertForCTC",
        SpeechTransformerCTC,
        Parts("wav2vec2_bert", front_end="", adapted=("residual_conv", "self_attn_conv")),
        convolutions=_none,
    ),
    "parakeet_ctc": Family(
        "Parakeet",
        "ParakeetForCTC",
        FastConformerCTC,
        Parts(front_end="encoder.subsampling.layers", head="ctc_head"),
        convolutions=_of_parakeet,
    ),
    "lasr_ctc": Family(
        "LASR",
        "LasrForCTC",
        FastConformerCTC,
        Parts(front_end="encoder.subsampler", after="out_norm", head="ctc_head", blocks_as=RotaryBlocksAsOneLayer),
        convolutions=_of_lasr,
    ),
    "granite_speech5_ctc": Family(
        "Granite Speech",
        "GraniteSpeech5ForCTC",
        GraniteCTC,
        Parts(front_end="encoder.input_linear", head="ctc_head"),
        convolutions=_of_granite,
        new_head=False,
        always_run=always_run,
        check_pruned=check_middle,
    ),
    "whisper": Family("Whisper", "WhisperForConditionalGeneration", None, WHISPER_PARTS, _none),
}
