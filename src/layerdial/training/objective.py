"""The objective of a pass: its inputs, its teachers, and the losses of its outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from layerdial.audio.features import Features
from layerdial.config.recipe import ExitsConfig, ObjectiveConfig, SpecAugmentConfig
from layerdial.data.batching import Batch
from layerdial.models.network import EncoderOutput
from layerdial.modules.losses import LossTerms, alpha_divergence, ctc, distillation
from layerdial.subset import Blocks
from layerdial.training.augment import mask_samples, spec_augment
from layerdial.training.reference import Reference


@dataclass(frozen=True)
class NetworkInputs:
    """A batch on the device: `masked` by SpecAugment, (B, T, F) or (B, S), and `unmasked`, the same without it.

    `frames_B`, how many frames the networks make of each utterance, stays on the CPU, where ctc_loss expects it:
    reading it off the device would wait for it.
    """

    masked: Tensor
    unmasked: Tensor
    lengths_B: Tensor
    frames_B: Tensor


def prepare_inputs(
    batch: Batch, features: Features, device: torch.device, augment: SpecAugmentConfig, distributed: bool = False
) -> NetworkInputs:
    """Put the batch on the device and apply SpecAugment.

    Lengths stay on the CPU, where a network can see whether there is padding; but DDP would move them there itself,
    and make the host wait for it.
    """
    unmasked, lengths_B = batch.inputs.to(device, non_blocking=True), batch.input_lengths_B
    mask = spec_augment if unmasked.ndim == 3 else mask_samples
    masked = mask(unmasked, lengths_B, augment)
    if distributed:
        return NetworkInputs(masked, unmasked, lengths_B.to(device, non_blocking=True), features.frames(lengths_B))
    return NetworkInputs(masked, unmasked, lengths_B, features.frames(lengths_B))


@dataclass(frozen=True)
class Teachers:
    """Log-probabilities (B, T', V) to learn from: the reference's, and the student's own of all its blocks."""

    reference_BTV: Tensor | None = None
    in_place_BTV: Tensor | None = None


def loss_terms(
    student: nn.Module,
    batch: Batch,
    inputs: NetworkInputs,
    subset: Blocks,
    teachers: Teachers,
    objective: ObjectiveConfig,
) -> LossTerms:
    """Compute the losses of one pass with `subset`, as `ObjectiveConfig` says."""
    exits = objective.exits
    depths = exit_depths(exits, subset.depth)
    output: EncoderOutput = student(inputs.masked, inputs.lengths_B, subset, depths)
    own = _output_loss(output.log_probs_BTV, batch, inputs, teachers, objective)
    if exits is None:
        return own
    weights = (subset.n_blocks / subset.depth) ** exits.power
    total = weights * own.total
    for depth, exit_BTV in zip(depths, output.exits_BTV, strict=True):
        weight = exits.weight * (subset.n_blocks / depth) ** exits.power
        terms = _output_loss(exit_BTV, batch, inputs, teachers, objective)
        total, weights = total + weight * terms.total, weights + weight
        if exits.distil_weight:
            kl = distillation(output.log_probs_BTV.detach(), exit_BTV, inputs.frames_B)
            total = total + weight * exits.distil_weight * kl
    return replace(own, total=total / weights)


def exit_depths(exits: ExitsConfig | None, depth: int) -> tuple[int, ...]:
    """Return after how many of the `depth` blocks of a pass there is an output besides the last."""
    if exits is None:
        return ()
    if exits.at == "all":
        return tuple(range(1, depth))
    return (depth // 2,) if depth > 1 else ()


def _output_loss(
    logp_BTV: Tensor, batch: Batch, inputs: NetworkInputs, teachers: Teachers, objective: ObjectiveConfig
) -> LossTerms:
    """Compute the CTC loss of one output, and its divergences from the teachers that there are."""
    frames_B = inputs.frames_B
    ctc_loss = ctc(logp_BTV, frames_B, batch.tokens_BU.to(logp_BTV.device, non_blocking=True), batch.token_lengths_B)
    total, kl = ctc_loss, torch.zeros_like(ctc_loss)
    if objective.in_place is not None and teachers.in_place_BTV is not None:
        diverge = alpha_divergence if objective.in_place.divergence == "alpha" else distillation
        divergence = diverge(teachers.in_place_BTV, logp_BTV, frames_B)
        total = objective.in_place.ctc_weight * ctc_loss + objective.in_place.weight * divergence
    if objective.distil is not None and teachers.reference_BTV is not None:
        kl = distillation(teachers.reference_BTV, logp_BTV, frames_B)
        total = total + objective.distil.weight * kl
    return LossTerms(total, ctc_loss.detach(), kl.detach(), logp_BTV.detach())


def ask_reference(
    reference: Reference | None, batch: Batch, inputs: NetworkInputs, objective: ObjectiveConfig
) -> Teachers:
    """Return the reference's posteriors: those that the batch brings, else of the inputs that `teacher` says."""
    if batch.posteriors is not None:
        return Teachers(batch.posteriors.expand(inputs.masked.device))
    if reference is None or objective.distil is None:
        return Teachers()
    given = inputs.unmasked if objective.distil.teacher == "clean" else inputs.masked
    return Teachers(reference.posteriors(given, inputs.lengths_B))


def skip_if_not_finite(optimizer: torch.optim.Optimizer, norm: Tensor) -> None:
    """If the gradient norm is not finite, let the next update change nothing; decided on the device, without waiting.

    `found_inf` is what torch's GradScaler sets for fused optimizers: neither weights, moments nor counters move.
    The run stops as soon as the loss is read.
    """
    optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
