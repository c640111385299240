"""A streaming Conformer, chunk by chunk: what it keeps between chunks, and one step.

A block keeps the keys and values of its attention, and what its convolution takes. Where it does not run, its own input
stands for both: that is there whether it runs or not, so a skipped block costs nothing. When it runs again, it computes
what is missing from that input, once, and finds no hole. Masked offline training (`ConformerCTC.forward` with a
`ChunkSchedule`) follows the same rule.

Shapes: B streams, T frames, F mel bins, N blocks, L frames of left context, K = kernel - 1 frames, P the more of both,
S frames before and now, D width, E = 2D, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from layerdial.audio.kaldi_fbank import N_MELS
from layerdial.config.network import ConformerConfig, StreamingConfig
from layerdial.errors import UserError
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.models.dynamic import Gates, check_blocks
from layerdial.models.network import EncoderOutput, Network
from layerdial.modules.attention import FrameContext, rotations
from layerdial.modules.chunks import seen_behind
from layerdial.modules.conformer import ConformerBlock, Past
from layerdial.modules.subsampling import frame_mask
from layerdial.subset import BlockSubset, ChunkSchedule


class Caches(NamedTuple):
    """What B streams keep between chunks; its size does not depend on how long they are.

    `seen_B`: frames of the encoder so far, int64. `input_B1F`: the last input. `middle_B1D`: the last frame between the
    front end's convolutions. `keys_NBLE`: keys and values of each block, not rotated yet. `gated_NBKD`: what each
    block's convolution takes. `raw_NBP`, bool: frames at which a block did not run, of which both hold its input; the
    last L and the last K of them.
    """

    seen_B: Tensor
    input_B1F: Tensor
    middle_B1D: Tensor
    keys_NBLE: Tensor
    gated_NBKD: Tensor
    raw_NBP: Tensor

    @classmethod
    def begin(cls, config: ConformerConfig, streams: int, device: torch.device | None = None) -> Caches:
        """Return the caches of streams that have heard nothing."""
        assert config.streaming is not None
        blocks, width, left, before = config.n_blocks, config.width, config.streaming.left_frames, config.kernel - 1
        return cls(
            torch.zeros(streams, dtype=torch.int64, device=device),
            torch.zeros(streams, 1, N_MELS, device=device),
            torch.zeros(streams, 1, width, device=device),
            torch.zeros(blocks, streams, left, 2 * width, device=device),
            torch.zeros(blocks, streams, before, width, device=device),
            torch.zeros(blocks, streams, max(left, before), dtype=torch.bool, device=device),
        )

    def past(self, i: int) -> Past:
        """Return what block i keeps."""
        keys_BLE, gated_BKD, raw_BP = self.keys_NBLE[i], self.gated_NBKD[i], self.raw_NBP[i]
        frames = raw_BP.shape[1]
        raw_keys, raw_gated = (raw_BP[:, frames - part.shape[1] :] for part in (keys_BLE, gated_BKD))
        return Past(keys_BLE, gated_BKD, raw_keys, raw_gated)


def streaming_of(network: Network) -> StreamingConfig | None:
    """Return how a network takes speech in chunks; none where it does not."""
    return network.config.streaming if isinstance(network, ConformerCTC) else None


def streaming_network(network: Network, name: str) -> ConformerCTC:
    """Return the network, if it takes speech in chunks. Raises `UserError` otherwise."""
    if isinstance(network, ConformerCTC) and network.config.streaming is not None:
        return network
    raise UserError(f"{name} takes whole utterances; for streaming, train a Conformer with model.streaming")


class Added(NamedTuple):
    """What a chunk adds to caches. `input_B1F` and `middle_B1D` are those of `Caches`, anew.

    `entering_BTD`: the input of the first block. `kept_NBTC`: of each block and each frame of the chunk its keys and
    values, its `gated`, and what comes out of it, side by side, C = E + 2D.
    """

    input_B1F: Tensor
    middle_B1D: Tensor
    entering_BTD: Tensor
    kept_NBTC: Tensor


def step(
    network: ConformerCTC, inputs_BTF: Tensor, lengths_B: Tensor, subset: BlockSubset, caches: Caches
) -> tuple[EncoderOutput, Caches]:
    """Run the blocks of `subset` on the next chunk of each stream, log-mel (B, T, F), and return the caches anew.

    Lengths are multiples of four inputs, except in a stream's last chunk; a stream of length 0 is left as it is.
    """
    check_blocks("subset", subset.n_blocks, network.n_blocks)
    return advance(network, inputs_BTF, lengths_B, subset, _caught_up(network, subset, caches))


def advance(
    network: ConformerCTC, inputs_BTF: Tensor, lengths_B: Tensor, subset: BlockSubset, caches: Caches
) -> tuple[EncoderOutput, Caches]:
    """Return what `step` does, where no block that runs has frames that are raw."""
    pasts = list(zip(caches.keys_NBLE, caches.gated_NBKD, strict=True))
    output, added = _run(network, inputs_BTF, lengths_B, subset, caches, pasts)
    frames_B, n_frames = output.lengths_B, added.kept_NBTC.shape[2]
    width = added.entering_BTD.shape[2]
    keys_NBTE, gated_NBTD, _ = added.kept_NBTC.tensor_split([2 * width, 3 * width], dim=3)
    keys_NBLE = _shifted(caches.keys_NBLE, keys_NBTE, frames_B)
    gated_NBKD = _shifted(caches.gated_NBKD, gated_NBTD, frames_B)
    open_N = torch.tensor([i in subset for i in range(subset.n_blocks)], device=frames_B.device)
    raw_NBP = _raw_after(caches.raw_NBP, open_N, frames_B, n_frames)
    after = Caches(caches.seen_B + frames_B, added.input_B1F, added.middle_B1D, keys_NBLE, gated_NBKD, raw_NBP)
    return output, after


def traced_step(
    network: ConformerCTC, inputs_BTF: Tensor, lengths_B: Tensor, gates: Gates, caches: Caches
) -> tuple[EncoderOutput, Added, tuple[Tensor, Tensor]]:
    """Return what a step makes and adds, and keys and values, and `gated`, of blocks that missed frames, caught up.

    Both sides of every choice are traced; the export makes them the branches of an `If`: one for all blocks that catch
    up, in it one for each, and one for each block. In that of a block is the choice which past it takes, so that
    nothing of a block that does not run is touched.
    """
    late_N = gates.open_N & caches.raw_NBP.flatten(1).any(dim=1)
    any_late = late_N.any()
    made = list[tuple[Tensor, Tensor]]()
    for i, block in enumerate(network.encoder.blocks):
        assert isinstance(block, ConformerBlock)
        past = caches.past(i)
        made.append(_either(late_N[i], block.caught_up(past), past[:2]))
    keys_NBLE, gated_NBKD = (torch.stack(parts) for parts in zip(*made, strict=True))
    caught = _either(any_late, (keys_NBLE, gated_NBKD), (caches.keys_NBLE, caches.gated_NBKD))
    pasts = [
        _either(
            any_late & gates.open_N[i],
            (caught[0][i], caught[1][i]),
            (caches.keys_NBLE[i], caches.gated_NBKD[i]),
        )
        for i in range(network.n_blocks)
    ]
    return *_run(network, inputs_BTF, lengths_B, gates, caches, pasts), caught


def _run(
    network: ConformerCTC,
    inputs_BTF: Tensor,
    lengths_B: Tensor,
    subset: BlockSubset | Gates,
    caches: Caches,
    pasts: list[tuple[Tensor, Tensor]],
) -> tuple[EncoderOutput, Added]:
    """Run a chunk, with keys and values, and `gated`, of the past of each block, of which no frame is raw."""
    with torch.autocast(inputs_BTF.device.type, enabled=False):
        normalised_BTF = network.normalise(inputs_BTF, lengths_B)
    x_BTD, input_B1F, middle_B1D = network.front_end.step(
        normalised_BTF, lengths_B, caches.input_B1F, caches.middle_B1D
    )
    frames_B = network.features.frames(lengths_B)
    context = _context(network.config, caches, x_BTD, frames_B)
    entering_BTD, kept = x_BTD, list[Tensor]()
    for i, block in enumerate(network.encoder.blocks):
        assert isinstance(block, ConformerBlock)
        x_BTD, kept_1BTC = _run_block(network, block, x_BTD, pasts[i], context, subset, i)
        kept.append(kept_1BTC)
    return EncoderOutput(network.classify(x_BTD), frames_B), Added(input_B1F, middle_B1D, entering_BTD, torch.cat(kept))


def step_through(
    network: ConformerCTC, inputs_BTF: Tensor, lengths_B: Tensor, schedule: ChunkSchedule
) -> EncoderOutput:
    """Run whole utterances chunk by chunk, as streams that begin and end together: what `network` computes masked."""
    caches = Caches.begin(network.config, len(inputs_BTF), inputs_BTF.device)
    made: list[Tensor] = []
    per_frame = network.features.subsampling
    for first, end, subset in schedule.chunks(int(network.features.frames(inputs_BTF.shape[1]))):
        chunk_BTF = inputs_BTF[:, per_frame * first : per_frame * end]
        chunk_lengths_B = (lengths_B - per_frame * first).clamp(0, chunk_BTF.shape[1])
        output, caches = step(network, chunk_BTF, chunk_lengths_B, subset, caches)
        made.append(output.log_probs_BTV)
    return EncoderOutput(torch.cat(made, dim=1), network.features.frames(lengths_B))


def _caught_up(network: ConformerCTC, subset: BlockSubset, caches: Caches) -> Caches:
    """Return caches in whose keys and values, and `gated`, no frame of a block that runs now is raw any more."""
    missed = caches.raw_NBP.flatten(1).any(dim=1).tolist()
    if not any(missed[i] for i in subset.kept):
        return caches
    made = list[tuple[Tensor, Tensor]]()
    for i, block in enumerate(network.encoder.blocks):
        assert isinstance(block, ConformerBlock)
        past = caches.past(i)
        made.append(block.caught_up(past) if i in subset and missed[i] else past[:2])
    keys_NBLE, gated_NBKD = (torch.stack(parts) for parts in zip(*made, strict=True))
    return caches._replace(keys_NBLE=keys_NBLE, gated_NBKD=gated_NBKD)


def _either(chosen: Tensor, new: tuple[Tensor, Tensor], old: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.where(chosen, new[0], old[0]), torch.where(chosen, new[1], old[1])


def _run_block(
    network: ConformerCTC,
    block: ConformerBlock,
    x_BTD: Tensor,
    past: tuple[Tensor, Tensor],
    context: FrameContext,
    subset: BlockSubset | Gates,
    i: int,
) -> tuple[Tensor, Tensor]:
    """Return the stream (B, T, D) behind a block, and what the block keeps of the chunk (1, B, T, C)."""
    sides = list[tuple[Tensor, Tensor]]()
    if isinstance(subset, Gates) or i in subset:
        sides.append(block.step(network.conditioned(x_BTD), *past, context))
    if isinstance(subset, Gates) or i not in subset:
        sides.append(block.left_out(x_BTD))
    (x_BTD, kept_1BTC), *others = [(own_BTD, kept_BTC.unsqueeze(0)) for own_BTD, kept_BTC in sides]
    if isinstance(subset, Gates):  # the export makes both sides the branches of one If
        return _either(subset.open_N[i], (x_BTD, kept_1BTC), others[0])
    return x_BTD, kept_1BTC


def _shifted(cached_NBPD: Tensor, new_NBTD: Tensor, frames_B: Tensor) -> Tensor:
    """Return the last P frames of each stream, of what was cached and what came. (Axis D may be missing.)"""
    blocks, streams, past = cached_NBPD.shape[:3]
    device = cached_NBPD.device
    block_N11 = torch.arange(blocks, device=device).view(-1, 1, 1)
    stream_B1 = torch.arange(streams, device=device).view(-1, 1)
    frame_BP = frames_B.unsqueeze(1) + torch.arange(past, device=device)
    return torch.cat([cached_NBPD, new_NBTD], dim=2)[block_N11, stream_B1, frame_BP]


def _context(config: ConformerConfig, caches: Caches, x_BTD: Tensor, frames_B: Tensor) -> FrameContext:
    """Return what all blocks need: which frames are real, now and before, and the rotations of all."""
    n_frames, left = x_BTD.shape[1], caches.keys_NBLE.shape[2]
    # an idle stream attends to its first frame of padding, since softmax over nothing is no number
    attended_BS = seen_behind(caches.seen_B, frames_B.clamp(min=1), left, n_frames)
    mask_BT = frame_mask(frames_B, n_frames)
    angles = rotations(left + n_frames, config.head_width, x_BTD.dtype, x_BTD.device)
    return FrameContext(mask_BT, *angles, attended_BS.unsqueeze(1))


def _raw_after(raw_NBP: Tensor, open_N: Tensor, frames_B: Tensor, n_frames: int) -> Tensor:
    """Return which frames each block keeps raw behind this chunk: none where it ran, else also the chunk's."""
    skipped_N11 = ~open_N.view(-1, 1, 1)
    chunk_NBT = skipped_N11.expand(-1, raw_NBP.shape[1], n_frames)
    return _shifted(raw_NBP & skipped_N11, chunk_NBT, frames_B)
