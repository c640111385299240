"""What is added to an encoder: strided convolutions after it (`add_adapter`), and adapters for languages (MMS)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from layerdial.audio.features import Convolution, frames_after
from layerdial.errors import UserError
from layerdial.models.huggingface.padding import RealFrames
from layerdial.models.huggingface.parts import parts_in
from layerdial.modules.subsampling import frame_mask
from layerdial.utils.files import read_json


class AfterEncoder:
    """The convolutions after an encoder, each told which frames it gets are real. `names` are those of one layer."""

    def __init__(self, adapter: Any, names: tuple[str, ...], convolutions: list[Convolution]) -> None:
        self.adapter = adapter
        self.convolutions = convolutions
        self.frames = [RealFrames(parts_in(layer, names)) for layer in adapter.layers]
        self.takes_mask = hasattr(adapter, "stride")  # wav2vec2-BERT's has attention too
        adapter.layerdrop = 0.0

    def __call__(self, x_BTD: Tensor, frames_B: Tensor | None) -> Tensor:
        """Return the adapted stream of one (B, T, D); `frames_B` are its real frames where some are padding."""
        if frames_B is None:
            return self.adapter(x_BTD)  # type: ignore[no-any-return]
        mask_BT = frame_mask(frames_B, x_BTD.shape[1])
        keywords = {"attention_mask": mask_BT} if self.takes_mask else {}
        longest, real_B = x_BTD.shape[1], frames_B
        for frames, convolution in zip(self.frames, self.convolutions, strict=True):
            frames.set(frame_mask(real_B, longest))
            longest, real_B = frames_after([convolution], longest), frames_after([convolution], real_B)
        try:
            return self.adapter(x_BTD, **keywords)  # type: ignore[no-any-return]
        finally:
            for frames in self.frames:
                frames.set(None)


def convolutions_after(config: Any) -> list[Convolution]:
    """Return (kernel, stride, padding) of each convolution after the encoder; none where a config has no adapter."""
    if not getattr(config, "add_adapter", False):
        return []
    padding = config.adapter_stride // 2 if config.model_type == "wav2vec2-bert" else 1
    return [(config.adapter_kernel_size, config.adapter_stride, padding)] * config.num_adapter_layers


def adapter_of(base: nn.Module, names: tuple[str, ...], convolutions: list[Convolution]) -> AfterEncoder | None:
    """Return the adapter of a model without its head, where it has one."""
    return AfterEncoder(base.adapter, names, convolutions) if convolutions else None


def load_language(folder: Path, model: PreTrainedModel) -> None:
    """Load the adapter of the tokenizer's language (MMS), and its head, where a folder has adapters beside its weights.

    Without any, the weights are those of one language as they are. Raises `UserError` where the language is not clear.
    """
    languages = sorted(file.name.split(".")[1] for file in folder.glob("adapter.*.safetensors"))
    if not languages or getattr(model.config, "adapter_attn_dim", None) is None:
        return
    settings = folder / "tokenizer_config.json"
    wanted = read_json(settings).get("target_lang") if settings.is_file() else None
    if wanted not in languages:
        known = ", ".join(languages[:10]) + (", …" if len(languages) > 10 else "")
        raise UserError(
            f"{folder} has adapters for languages ({known}), and tokenizer_config.json has target_lang {wanted!r}; set "
            "it to one of them"
        )
    try:
        model.load_adapter(wanted, force_load=True, local_files_only=True)
    except Exception as error:  # OSError, ValueError, RuntimeError
        reason = str(error).partition("\n")[0].rstrip(".")
        file = folder / f"adapter.{wanted}.safetensors"
        raise UserError(f"{file} is no adapter of this model ({reason}); copy it again") from None
