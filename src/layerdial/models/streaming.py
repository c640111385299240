"""A streaming Conformer, chunk by chunk: what it keeps between chunks, and one step.

A block keeps the inputs of its attention and of its convolution, D numbers a frame each. Where it does not run, its own
input stands for both: that is there whether it runs or not, so a skipped block costs nothing, and a block that comes
back finds no hole. Masked offline training (`ConformerCTC.forward` with a `ChunkSchedule`) follows the same rule.

Shapes: B streams, T frames, F mel bins, N blocks, L frames of left context, K kernel, D width, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from layerdial.audio.kaldi_fbank import N_MELS
from layerdial.config.network import ConformerConfig
from layerdial.errors import UserError
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.models.dynamic import Gates, check_blocks
from layerdial.models.network import EncoderOutput, Network
from layerdial.modules.attention import FrameContext, rotations
from layerdial.modules.chunks import seen_behind
from layerdial.modules.conformer import ChunkOutput, Past
from layerdial.modules.subsampling import frames_from
from layerdial.subset import BlockSubset


class Caches(NamedTuple):
    """What B streams keep between chunks; its size does not depend on how long they are.

    `seen_B`: frames of the encoder so far, int64. `input_B1F`: the last input. `middle_B1D`: the last frame between the
    front end's convolutions. `attention_NBLD`, `convolution_NBKD`: the inputs of each block's attention, for L frames,
    and of its convolution, for K - 1.
    """

    seen_B: Tensor
    input_B1F: Tensor
    middle_B1D: Tensor
    attention_NBLD: Tensor
    convolution_NBKD: Tensor

    @classmethod
    def begin(cls, config: ConformerConfig, streams: int, device: torch.device | None = None) -> Caches:
        """Return the caches of streams that have heard nothing."""
        assert config.streaming is not None
        left, width = config.streaming.left_frames, config.width
        return cls(
            torch.zeros(streams, dtype=torch.int64, device=device),
            torch.zeros(streams, 1, N_MELS, device=device),
            torch.zeros(streams, 1, width, device=device),
            torch.zeros(config.n_blocks, streams, left, width, device=device),
            torch.zeros(config.n_blocks, streams, config.kernel - 1, width, device=device),
        )


def streaming_network(network: Network, name: str) -> ConformerCTC:
    """Return the network, if it takes speech in chunks. Raises `UserError` otherwise."""
    if isinstance(network, ConformerCTC) and network.config.streaming is not None:
        return network
    raise UserError(f"{name} takes whole utterances; for streaming, train a Conformer with model.streaming")


def step(
    network: ConformerCTC, inputs_BTF: Tensor, lengths_B: Tensor, subset: BlockSubset | Gates, caches: Caches
) -> tuple[EncoderOutput, Caches]:
    """Run the blocks of `subset` on the next chunk of each stream, log-mel (B, T, F), and return the caches anew.

    Lengths are multiples of four inputs, except in a stream's last chunk; a stream of length 0 is left as it is.
    """
    check_blocks("subset", subset.n_blocks, network.n_blocks)
    with torch.autocast(inputs_BTF.device.type, enabled=False):
        normalised_BTF = network.normalise(inputs_BTF, lengths_B)
    x_BTD, input_B1F, middle_B1D = network.front_end.step(
        normalised_BTF, lengths_B, caches.input_B1F, caches.middle_B1D
    )
    frames_B = network.features.frames(lengths_B)
    run = _Chunk.of(network.config, caches, x_BTD, frames_B)
    kept: list[tuple[Tensor, Tensor]] = []
    for i, block in enumerate(network.encoder.blocks):
        x_BTD, *entered = _run_block(network, block, x_BTD, run.past(i), run.context, subset, i)
        kept.append(run.kept(i, *entered))
    attention, convolution = (torch.stack(parts) for parts in zip(*kept, strict=True))
    after = Caches(caches.seen_B + frames_B, input_B1F, middle_B1D, attention, convolution)
    return EncoderOutput(network.classify(x_BTD), frames_B), after


def _run_block(
    network: ConformerCTC,
    block: nn.Module,
    x_BTD: Tensor,
    past: Past,
    context: FrameContext,
    subset: BlockSubset | Gates,
    i: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a block's output, and the inputs of its attention and convolution; its own input for all where skipped."""
    if not isinstance(subset, Gates) and i not in subset:
        return x_BTD, x_BTD, x_BTD
    made: ChunkOutput = block.step(network.conditioned(x_BTD), past, context)  # type: ignore[operator]
    if not isinstance(subset, Gates):
        return made.x_BTD, made.attention_BTD, made.convolution_BTD
    # both are traced; the export makes them the branches of an If
    x, attention, convolution = (
        torch.where(subset.open_N[i], own_BTD, x_BTD)
        for own_BTD in (made.x_BTD, made.attention_BTD, made.convolution_BTD)
    )
    return x, attention, convolution


class _Chunk(NamedTuple):
    """What all blocks share of one chunk: how many frames are real, now and before, and their rotations."""

    caches: Caches
    frames_B: Tensor
    context: FrameContext
    convolution_mask_BS: Tensor

    @classmethod
    def of(cls, config: ConformerConfig, caches: Caches, x_BTD: Tensor, frames_B: Tensor) -> _Chunk:
        n_frames, left = x_BTD.shape[1], caches.attention_NBLD.shape[2]
        before = caches.convolution_NBKD.shape[2]
        attended_BS = seen_behind(caches.seen_B, frames_B, left, n_frames)
        mask_BT = attended_BS[:, left:]
        # an idle stream attends to its first frame of padding, since softmax over nothing is no number
        attended_BS = attended_BS | (
            (frames_B == 0).unsqueeze(1) & (torch.arange(left + n_frames) == left).to(x_BTD.device)
        )
        angles = rotations(left + n_frames, config.head_width, x_BTD.dtype, x_BTD.device)
        context = FrameContext(mask_BT, *angles, attended_BS.unsqueeze(1))
        return cls(caches, frames_B, context, seen_behind(caches.seen_B, frames_B, before, n_frames))

    def past(self, i: int) -> Past:
        return Past(self.caches.attention_NBLD[i], self.caches.convolution_NBKD[i], self.convolution_mask_BS)

    def kept(self, i: int, attention_BTD: Tensor, convolution_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a block keeps for the next chunk: the last frames of the old cache and of the chunk."""
        attention_BLD, convolution_BKD = self.caches.attention_NBLD[i], self.caches.convolution_NBKD[i]
        return (
            frames_from(torch.cat([attention_BLD, attention_BTD], dim=1), self.frames_B, attention_BLD.shape[1]),
            frames_from(torch.cat([convolution_BKD, convolution_BTD], dim=1), self.frames_B, convolution_BKD.shape[1]),
        )
