"""A network family: the front end of the Conformer, then blocks of convolution and feed-forward without attention."""

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor, nn

from layerdial import register_network
from layerdial.audio.features import LogMel
from layerdial.audio.kaldi_fbank import N_MELS
from layerdial.models.dynamic import Choice, run_blocks
from layerdial.models.family import NetworkFamily
from layerdial.models.network import EncoderOutput, Network
from layerdial.modules.attention import FrameContext
from layerdial.modules.conformer import Convolution, FeedForward
from layerdial.modules.normalisation import UtteranceNorm
from layerdial.modules.subsampling import SUBSAMPLING, ConvSubsampling


@register_network("conv_stack")
class ConvStackSettings(NetworkFamily):
    """The keys of `model` in a recipe."""

    n_blocks: int = Field(default=8, ge=1)
    width: int = Field(default=96, ge=8)
    kernel: int = Field(default=15, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    def block_count(self) -> int:
        return self.n_blocks

    def build(self, vocab_size: int) -> Network:
        return ConvStack(self, vocab_size)


class Block(nn.Module):
    """Each part is added to the stream, so that a block can be left out."""

    def __init__(self, settings: ConvStackSettings) -> None:
        super().__init__()
        self.convolution = Convolution(settings.width, settings.kernel, settings.dropout)
        self.feed_forward = FeedForward(settings.width, 4 * settings.width, settings.dropout)

    def forward(self, x_BTD: Tensor, context: FrameContext) -> Tensor:
        x_BTD = x_BTD + self.convolution(x_BTD, context)
        return x_BTD + self.feed_forward(x_BTD)


class ConvStack(Network):
    """Log-mel (B, T, 80) in, log-probabilities (B, T/4, V) out."""

    features = LogMel(SUBSAMPLING)

    def __init__(self, settings: ConvStackSettings, vocab_size: int) -> None:
        super().__init__()
        self.normalise = UtteranceNorm()
        self.front_end = ConvSubsampling(N_MELS, settings.width, settings.dropout)
        self.stack = nn.ModuleList(Block(settings) for _ in range(settings.n_blocks))
        self.norm = nn.LayerNorm(settings.width)
        self.head = nn.Linear(settings.width, vocab_size)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return list(self.stack)

    def forward(self, inputs: Tensor, lengths_B: Tensor, subset: Choice, exits: Sequence[int] = ()) -> EncoderOutput:
        lengths_B = lengths_B.to(inputs.device)
        x_BTD = self.front_end(self.normalise(inputs, lengths_B), lengths_B)
        lengths_B = self.features.frames(lengths_B)
        context = FrameContext.make(lengths_B, x_BTD.shape[1], 2, x_BTD.dtype)

        def run(block: nn.Module, x_BTD: Tensor) -> Tensor:
            return block(x_BTD, context)

        x_BTD, states = run_blocks(self.blocks, x_BTD, subset, run, keep_states=bool(exits))
        return EncoderOutput(self.classify(x_BTD), lengths_B, tuple(self.classify(states[n - 1]) for n in exits))

    def classify(self, x_BTD: Tensor) -> Tensor:
        return self.head(self.norm(x_BTD)).float().log_softmax(dim=-1)
