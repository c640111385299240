"""What a network is, as strict frozen models: in recipes, and beside the weights of a stored one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from layerdial.config.registry import Registry
from layerdial.config.strict import Strict

SIZES: dict[str, dict[str, Any]] = {
    "xs": {"n_blocks": 8, "width": 96, "heads": 4, "ffn_width": 384, "kernel": 15},
    "s": {"n_blocks": 12, "width": 144, "heads": 4, "ffn_width": 576, "kernel": 31},
    "m": {"n_blocks": 12, "width": 192, "heads": 4, "ffn_width": 768, "kernel": 31},
    "paper": {"n_blocks": 12, "width": 256, "heads": 8, "ffn_width": 2048, "kernel": 31, "block_norm": True},
}


FRAME_MS = 40  # of a Conformer's encoder: four frames of log-mel
ChunkMs = Annotated[int, Field(ge=FRAME_MS, le=60_000, multiple_of=FRAME_MS)] | Literal["full"]


class NetworkConfig(Strict):
    """What every network's settings have. A family of one's own derives from `models.network.NetworkFamily`."""

    family: str

    def block_count(self) -> int | None:
        """Return the number of blocks; none where the settings do not say it."""
        return None


def _family(model: Mapping[str, Any]) -> Any:
    """Which kind of network: as `family` says, or as keys say that only Hugging Face models have."""
    only_hugging_face = set(model) & (set(HuggingFaceConfig.model_fields) - set(ConformerConfig.model_fields))
    return model.get("family", "hf" if only_hugging_face else "conformer")


NETWORKS = Registry("network", "layerdial.networks", NetworkConfig, key="family", name_of=_family)
register_network = NETWORKS.register
AnyNetwork = Annotated[SerializeAsAny[NetworkConfig], NETWORKS]


class StreamingConfig(Strict):
    """How a network takes speech in chunks; one set of weights for all sizes of chunks, and for whole utterances.

    `chunk_ms` are the sizes that training draws from, one a batch; "full" is the whole utterance. `left_context_ms`
    bounds what attention sees before a chunk, and with it the memory of a stream.
    """

    chunk_ms: tuple[ChunkMs, ...] = (80, 160, 320, 640, "full")
    left_context_ms: int = Field(default=2560, ge=FRAME_MS, le=60_000, multiple_of=FRAME_MS)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.chunk_ms or len(set(self.chunk_ms)) < len(self.chunk_ms):
            raise ValueError(f"chunk_ms names sizes of chunks, each once, found {list(self.chunk_ms)}")
        return self

    @property
    def left_frames(self) -> int:
        return self.left_context_ms // FRAME_MS

    @property
    def chunk_frames(self) -> tuple[int | None, ...]:
        """The sizes of chunks in frames of the encoder; none for the whole utterance."""
        return tuple(None if size == "full" else size // FRAME_MS for size in self.chunk_ms)


@register_network("conformer")
class ConformerConfig(NetworkConfig):
    """The network. `size` names a set of numbers; any of them can be set beside it.

    `normalise` says what is done to log-mel features. "fixed" shifts and scales each bin by the training corpus's mean
    and deviation: pauses do not move it, and a stream can apply it. "speech" takes those of each utterance's loud
    frames: white noise 20 dB below the speech, and silence, do not move it, and a level has no effect. "utterance"
    takes those of all frames; it is the default, because recipes and models without this key were made with it.
    `block_norm` ends every block with a LayerNorm, as the Conformer was published; without it the blocks add to a
    plain residual stream that is normalised once, before the head, which learns far sooner from little data.
    `skip` says what is left of a dropped block: nothing ("identity") or its final norm ("norm", as in LDASR).
    `exit_heads` gives every depth below N a norm and a head of its own (early exits).
    `self_condition` adds to the stream, before each block that runs, a linear layer of what the head makes of it so far
    (self-conditioned CTC, arXiv 2104.02724).
    `selector` adds a part that chooses the blocks where only their number is given: from the front end's output
    ("input"), or by a learned score a block ("scores").
    `streaming` makes convolutions causal and lets attention see chunks, so that speech can be recognised as it comes.
    """

    family: Literal["conformer"] = "conformer"
    size: Literal["xs", "s", "m", "paper"] | None = None
    n_blocks: int = Field(ge=1, le=1000)
    width: int = Field(ge=8, le=65_536)
    heads: int = Field(ge=1, le=65_536)
    ffn_width: int = Field(ge=8, le=1_000_000)
    kernel: int = Field(ge=1, le=100_000)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    normalise: Literal["utterance", "speech", "fixed"] = "utterance"
    block_norm: bool = False
    skip: Literal["identity", "norm"] = "identity"
    exit_heads: bool = False
    self_condition: bool = False
    selector: Literal["input", "scores"] | None = None
    streaming: StreamingConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_in_size(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("size"), str) and data["size"] in SIZES:
            return {**SIZES[data["size"]], **data}
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width {self.width} is not a multiple of twice the heads (2 x {self.heads}), as rotary needs"
            )
        if self.skip == "norm" and not self.block_norm:
            raise ValueError("skip 'norm' keeps a dropped block's final norm, which needs block_norm: true")
        if self.selector and self.skip == "norm":
            raise ValueError("a selector drops blocks whole, but skip 'norm' keeps their norms; leave one of them out")
        if self.self_condition and self.exit_heads:
            raise ValueError(
                "self_condition feeds the posteriors of the one head back, but exit_heads gives each depth its own"
            )
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} is even; an odd kernel is centred on its frame")
        if self.streaming is not None:
            self._check_streaming()
        return self

    def _check_streaming(self) -> None:
        """Refuse what needs the whole utterance, or one depth for all of it."""
        if self.normalise != "fixed":
            raise ValueError(
                f"streaming has not heard the utterance that normalise {self.normalise!r} takes; set fixed"
            )
        for name in ("selector", "exit_heads"):
            if getattr(self, name):
                raise ValueError(f"{name} goes with one depth an utterance, which streaming may change; leave one out")
        if self.skip == "norm":
            raise ValueError("streaming keeps the input of a dropped block, but skip is 'norm'; set identity")

    def block_count(self) -> int | None:
        return self.n_blocks

    @property
    def head_width(self) -> int:
        return self.width // self.heads


@register_network("hf")
class HuggingFaceConfig(NetworkConfig):
    """A Hugging Face model: WavLM, wav2vec2, HuBERT or Parakeet with CTC, or Whisper.

    `config` holds keys of the library's own config: from scratch, what the network is (`model_type: wavlm` and sizes);
    over a checkpoint, what has no weights, such as `hidden_dropout`. Its `layerdrop` and its own SpecAugment
    (`mask_time_prob` and the like) are not used: blocks are dropped by `policy`, inputs masked by `spec_augment`.
    `head: ctc` puts a CTC head for the recipe's `tokenizer` on Whisper's encoder, in place of its decoder.
    `gradient_checkpointing` computes the kept blocks a second time in the backward pass, to save memory.
    `freeze_decoder`, for encoder-decoder models: "embeddings" (if left out), which are the output layer too, "all", or
    "none".
    """

    family: Literal["hf"] = "hf"
    config: dict[str, Any] = Field(default={})
    head: Literal["ctc"] | None = None
    freeze_front_end: bool = True
    gradient_checkpointing: bool = False
    freeze_decoder: Literal["none", "embeddings", "all"] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        inner = self.config.get("encoder_config")
        for key in [*self.config, *(inner if isinstance(inner, dict) else ())]:
            if key == "layerdrop":
                raise ValueError(f"config.{key} is not used; `policy` says how blocks are dropped")
            if key.startswith("mask_") or key == "apply_spec_augment":
                raise ValueError(f"config.{key} is not used; `spec_augment` says what is masked")
        return self
