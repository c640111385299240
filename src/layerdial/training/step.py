"""One training step: gradients of every subset of the step, and one update."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layerdial.config import ObjectiveConfig, SpecAugmentConfig
from layerdial.data.batching import Batch
from layerdial.modules.losses import LossTerms, ctc, distillation
from layerdial.modules.subsampling import subsampled
from layerdial.subset import BlockSubset
from layerdial.training.augment import spec_augment
from layerdial.training.reference import Reference


def prepare_inputs(batch: Batch, device: torch.device, augment: SpecAugmentConfig) -> tuple[Tensor, Tensor]:
    """The batch on the device, with SpecAugment: inputs (B, T, F) and lengths (B,)."""
    inputs_BTF = batch.inputs_BTF.to(device, non_blocking=True)
    return spec_augment(inputs_BTF, batch.input_lengths_B, augment), batch.input_lengths_B.to(device, non_blocking=True)


def loss_terms(
    student: nn.Module,
    batch: Batch,
    inputs_BTF: Tensor,
    lengths_B: Tensor,
    subset: BlockSubset,
    reference_BTV: Tensor | None,
    objective: ObjectiveConfig,
) -> LossTerms:
    """CTC of the student run with `subset`, plus, with a reference, the weighted KL from its posteriors."""
    logp_BTV, _ = student(inputs_BTF, lengths_B, subset)
    # computed again on the CPU, where ctc_loss wants them: reading them off the device would wait for it
    frames_B = subsampled(batch.input_lengths_B)
    ctc_loss = ctc(logp_BTV, frames_B, batch.tokens_BU.to(logp_BTV.device, non_blocking=True), batch.token_lengths_B)
    if reference_BTV is None:
        return LossTerms(ctc_loss, ctc_loss.detach(), torch.zeros_like(ctc_loss))
    kl = distillation(reference_BTV, logp_BTV, subsampled(lengths_B), objective.temperature, objective.blank)
    return LossTerms(ctc_loss + objective.distil_weight * kl, ctc_loss.detach(), kl.detach())


def reference_posteriors(reference: Reference | None, inputs_BTF: Tensor, lengths_B: Tensor) -> Tensor | None:
    """The reference hears what the student hears, SpecAugment included."""
    return None if reference is None else reference.posteriors(inputs_BTF, lengths_B)


def skip_if_not_finite(optimizer: torch.optim.Optimizer, norm: Tensor) -> None:
    """If the gradient norm is not finite, let the next update change nothing; decided on the device, without waiting.

    `found_inf` is what torch's GradScaler sets for fused optimizers: neither weights, moments nor counters move.
    The run stops as soon as the loss is read.
    """
    optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
