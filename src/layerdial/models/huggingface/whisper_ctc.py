"""Whisper's encoder under a CTC head, as a dynamic network: no decoder, input as long as the audio.

The library has no class for it, so its folders are read here alone. Their weights have the names of whole checkpoints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder, WhisperPreTrainedModel

from layerdial.audio.features import WhisperMel
from layerdial.audio.whisper_mel import check_length
from layerdial.config.network import HuggingFaceConfig
from layerdial.models.huggingface.ctc import HuggingFaceCTC
from layerdial.models.huggingface.parts import Parts
from layerdial.models.huggingface.whisper_encoder import before_blocks, longest_input
from layerdial.text.ctc import BLANK

WHISPER_PARTS = Parts("model", after="layer_norm", head="ctc_head")


class WhisperForCTC(WhisperPreTrainedModel):  # type: ignore[misc]
    """The library's encoder and a linear head. A decoder in a checkpoint is left out."""

    _keys_to_ignore_on_load_unexpected = (r"^model\.decoder\.", r"^proj_out\.")

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__(config)
        self.model = _EncoderAlone(config)
        self.ctc_head = nn.Linear(config.d_model, config.vocab_size)
        self.post_init()


class _EncoderAlone(nn.Module):
    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.encoder = WhisperEncoder(config)


def has_ctc_head(config: PreTrainedConfig) -> bool:
    """Return whether a config.json is that of a `WhisperForCTC`."""
    return bool(config.model_type == "whisper" and config.architectures == [WhisperForCTC.__name__])


def ask_for_ctc_head(config: PreTrainedConfig, n_tokens: int) -> None:
    """Change the config of any Whisper checkpoint to that of its encoder under a head for `n_tokens` tokens."""
    config.architectures = [WhisperForCTC.__name__]
    config.vocab_size = n_tokens
    config.pad_token_id = config.decoder_start_token_id = BLANK  # the library warns of ids beyond the vocabulary
    config.bos_token_id = config.eos_token_id = None
    config.is_encoder_decoder = config.tie_word_embeddings = False


class WhisperCTC(HuggingFaceCTC):
    """Convolutions over Whisper's log-mel, transformer blocks, a linear head."""

    features: WhisperMel

    def __init__(self, model: PreTrainedModel, features: WhisperMel, blank: int) -> None:
        super().__init__(model, features, blank, WHISPER_PARTS)

    @property
    def front_end(self) -> nn.Module:
        return nn.ModuleList([self.encoder.conv1, self.encoder.conv2])

    def prepare_training(self, settings: HuggingFaceConfig) -> None:
        super().prepare_training(settings)
        self.encoder.embed_positions.requires_grad_(False)  # thawed when weights are loaded

    def _encode(self, inputs: Tensor, lengths_B: Tensor | None, for_blocks: dict[str, Any]) -> Tensor:
        check_length(inputs.shape[1], longest_input(self.encoder))
        x_BTD, mask_B11T = before_blocks(self.encoder, inputs, lengths_B)
        return self._leave_encoder(self.encoder.layers(x_BTD, attention_mask=mask_B11T, **for_blocks))

    def save(self, folder: Path) -> None:
        super().save(folder)
        WhisperFeatureExtractor(feature_size=self.features.n_mels).save_pretrained(folder)
