"""One training step: gradients of every subset of the step, and one update."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layerdial.config import ObjectiveConfig, SpecAugmentConfig
from layerdial.data.batching import Batch
from layerdial.modules.losses import LossTerms, ctc, distillation
from layerdial.subset import BlockSubset
from layerdial.training.augment import mask_samples, spec_augment
from layerdial.training.reference import Reference


def prepare_inputs(batch: Batch, device: torch.device, augment: SpecAugmentConfig) -> Tensor:
    """The batch on the device, with SpecAugment: (B, T, F) or (B, S)."""
    inputs = batch.inputs.to(device, non_blocking=True)
    masked = spec_augment if inputs.ndim == 3 else mask_samples
    return masked(inputs, batch.input_lengths_B, augment)


def loss_terms(
    student: nn.Module,
    batch: Batch,
    inputs: Tensor,
    frames_B: Tensor,
    subset: BlockSubset,
    reference_BTV: Tensor | None,
    objective: ObjectiveConfig,
) -> LossTerms:
    """CTC of the student run with `subset`, plus, with a reference, the weighted KL from its posteriors.

    `frames_B` on the CPU, where ctc_loss wants them: reading the student's off the device would wait for it.
    """
    logp_BTV, _ = student(inputs, batch.input_lengths_B, subset)
    ctc_loss = ctc(logp_BTV, frames_B, batch.tokens_BU.to(logp_BTV.device, non_blocking=True), batch.token_lengths_B)
    if reference_BTV is None:
        return LossTerms(ctc_loss, ctc_loss.detach(), torch.zeros_like(ctc_loss))
    kl = distillation(reference_BTV, logp_BTV, frames_B, objective.temperature, objective.blank)
    return LossTerms(ctc_loss + objective.distil_weight * kl, ctc_loss.detach(), kl.detach())


def reference_posteriors(reference: Reference | None, inputs: Tensor, lengths_B: Tensor) -> Tensor | None:
    """The reference hears what the student hears, SpecAugment included."""
    return None if reference is None else reference.posteriors(inputs, lengths_B)


def skip_if_not_finite(optimizer: torch.optim.Optimizer, norm: Tensor) -> None:
    """If the gradient norm is not finite, let the next update change nothing; decided on the device, without waiting.

    `found_inf` is what torch's GradScaler sets for fused optimizers: neither weights, moments nor counters move.
    The run stops as soon as the loss is read.
    """
    optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
