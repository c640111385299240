"""One training step: gradients of every subset of the step, and one update."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from layerdial.config import ObjectiveConfig, SpecAugmentConfig
from layerdial.data.batching import Batch
from layerdial.features import Features
from layerdial.modules.losses import LossTerms, alignment, alpha_divergence, ctc, distillation
from layerdial.subset import Blocks
from layerdial.training.augment import mask_samples, spec_augment
from layerdial.training.reference import Reference


@dataclass(frozen=True)
class Heard:
    """What the networks hear of a batch: `inputs` (B, T, F) or (B, S) on the device, masked by SpecAugment.

    `unmasked` is the same without it.
    `frames_B`, what the networks make of them, stays on the CPU, where ctc_loss wants it: reading it off the device
    would wait for it.
    """

    inputs: Tensor
    unmasked: Tensor
    lengths_B: Tensor
    frames_B: Tensor


def prepare_inputs(
    batch: Batch, features: Features, device: torch.device, augment: SpecAugmentConfig, distributed: bool = False
) -> Heard:
    """The batch on the device, with SpecAugment.

    Lengths stay on the CPU, where a network can see whether there is padding; but DDP would move them there itself,
    and make the host wait for it.
    """
    unmasked, lengths_B = batch.inputs.to(device, non_blocking=True), batch.input_lengths_B
    masked = spec_augment if unmasked.ndim == 3 else mask_samples
    inputs = masked(unmasked, lengths_B, augment)
    if distributed:
        return Heard(inputs, unmasked, lengths_B.to(device, non_blocking=True), features.frames(lengths_B))
    return Heard(inputs, unmasked, lengths_B, features.frames(lengths_B))


@dataclass(frozen=True)
class Teachers:
    """Log-probabilities (B, T', V) to learn from: the reference's, and the student's own of all its blocks.

    `streams_NBTD`: what the reference's stream is after each block.
    """

    reference_BTV: Tensor | None = None
    in_place_BTV: Tensor | None = None
    streams_NBTD: Tensor | None = None


def loss_terms(
    student: nn.Module, batch: Batch, heard: Heard, subset: Blocks, teachers: Teachers, objective: ObjectiveConfig
) -> LossTerms:
    """The losses of one pass with `subset`: see `ObjectiveConfig`."""
    exits = exit_depths(objective.exits, subset.depth)
    aligned = teachers.streams_NBTD is not None
    logp_BTV, _, *more = student(heard.inputs, heard.lengths_B, subset, exits, aligned)
    own = _output_loss(logp_BTV, batch, heard, subset.depth / subset.n_blocks, teachers, objective)
    weights = (subset.n_blocks / subset.depth) ** objective.exit_power
    total = weights * own.total
    for depth, exit_BTV in zip(exits, more[: len(exits)], strict=True):
        weight = objective.exit_weight * (subset.n_blocks / depth) ** objective.exit_power
        terms = _output_loss(exit_BTV, batch, heard, depth / subset.n_blocks, teachers, objective)
        total, weights = total + weight * terms.total, weights + weight
        if objective.exit_distil_weight:
            kl = distillation(logp_BTV.detach(), exit_BTV, heard.frames_B, objective.temperature, objective.blank)
            total = total + weight * objective.exit_distil_weight * kl
    total = total / weights
    if teachers.streams_NBTD is not None:
        total = total + objective.align_weight * alignment(teachers.streams_NBTD, more[-1], heard.frames_B)
    return replace(own, total=total)


def exit_depths(exits: str, depth: int) -> tuple[int, ...]:
    """After how many of the `depth` blocks of a pass there is an output besides the last."""
    if exits == "all":
        return tuple(range(1, depth))
    return (depth // 2,) if exits == "middle" and depth > 1 else ()


def _output_loss(
    logp_BTV: Tensor, batch: Batch, heard: Heard, share: float, teachers: Teachers, objective: ObjectiveConfig
) -> LossTerms:
    """CTC of one output, after `share` of the blocks, plus what its teachers say."""
    frames_B = heard.frames_B
    ctc_loss = ctc(logp_BTV, frames_B, batch.tokens_BU.to(logp_BTV.device, non_blocking=True), batch.token_lengths_B)
    total, kl = ctc_loss, torch.zeros_like(ctc_loss)
    if teachers.in_place_BTV is not None:
        if objective.in_place_divergence == "alpha":
            divergence = alpha_divergence(teachers.in_place_BTV, logp_BTV, frames_B)
        else:
            divergence = distillation(teachers.in_place_BTV, logp_BTV, frames_B, objective.temperature, objective.blank)
        total = objective.in_place_ctc * ctc_loss + objective.in_place_weight * divergence
    if teachers.reference_BTV is not None:
        kl = distillation(teachers.reference_BTV, logp_BTV, frames_B, objective.temperature, objective.blank)
        total = total + objective.distil_weight * (1.0 + objective.distil_growth * (1.0 - share)) * kl
    return LossTerms(total, ctc_loss.detach(), kl.detach(), logp_BTV.detach())


def ask_reference(reference: Reference | None, batch: Batch, heard: Heard, objective: ObjectiveConfig) -> Teachers:
    """What the reference teaches: the posteriors that the batch brings, else what it makes of what `teacher` says."""
    if batch.posteriors is not None:
        return Teachers(batch.posteriors.expand(heard.inputs.device))
    if reference is None:
        return Teachers()
    inputs = heard.unmasked if objective.teacher == "clean" else heard.inputs
    if not objective.align_weight:
        return Teachers(reference.posteriors(inputs, heard.lengths_B))
    logp_BTV, streams_NBTD = reference.posteriors_and_streams(inputs, heard.lengths_B)
    return Teachers(logp_BTV if objective.distil_weight else None, streams_NBTD=streams_NBTD)


def skip_if_not_finite(optimizer: torch.optim.Optimizer, norm: Tensor) -> None:
    """If the gradient norm is not finite, let the next update change nothing; decided on the device, without waiting.

    `found_inf` is what torch's GradScaler sets for fused optimizers: neither weights, moments nor counters move.
    The run stops as soon as the loss is read.
    """
    optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
