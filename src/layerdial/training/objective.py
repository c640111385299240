"""The objective of a pass: its inputs, its teachers, and the losses of its outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from layerdial.config.objective import ObjectiveConfig, ObjectiveSettings
from layerdial.config.recipe import SpecAugmentConfig
from layerdial.data.batching import Batch
from layerdial.errors import UserError
from layerdial.models.network import EncoderOutput, Network
from layerdial.modules.losses import LossTerms, alpha_divergence, cross_entropy, ctc, distillation
from layerdial.subset import Blocks, ChunkSchedule
from layerdial.training.augment import mask_samples, spec_augment
from layerdial.training.reference import Reference


@dataclass(frozen=True)
class NetworkInputs:
    """A batch on the device: `masked` by SpecAugment, (B, T, F) or (B, S), and `unmasked`, the same without it.

    `frames_B`, how many posteriors the networks make of each utterance, stays on the CPU, where ctc_loss expects it:
    reading it off the device would wait for it. `tokens_BU` are the labels, for networks with a decoder alone.
    """

    masked: Tensor
    unmasked: Tensor
    lengths_B: Tensor
    frames_B: Tensor
    tokens_BU: Tensor | None = None

    @property
    def given(self) -> tuple[Tensor, ...]:
        """The labels as further arguments of a network with a decoder; none for others."""
        return () if self.tokens_BU is None else (self.tokens_BU,)


def prepare_inputs(
    batch: Batch, network: Network, device: torch.device, augment: SpecAugmentConfig, distributed: bool = False
) -> NetworkInputs:
    """Put the batch on the device and apply SpecAugment.

    Lengths stay on the CPU, where a network can see whether there is padding; but DDP would move them there itself,
    and make the host wait for it.
    """
    unmasked, lengths_B = batch.inputs.to(device, non_blocking=True), batch.input_lengths_B
    mask = spec_augment if unmasked.ndim == 3 else mask_samples
    masked = mask(unmasked, lengths_B, augment)
    there_B = lengths_B.to(device, non_blocking=True) if distributed else lengths_B
    if network.labels.teacher_forced:
        tokens_BU = batch.tokens_BU.to(device, non_blocking=True)
        return NetworkInputs(masked, unmasked, there_B, batch.token_lengths_B, tokens_BU)
    return NetworkInputs(masked, unmasked, there_B, network.features.frames(lengths_B))


@dataclass(frozen=True)
class Teachers:
    """Log-probabilities (B, T', V), of a decoder (B, U, V), to learn from: the reference's, the student's in full."""

    reference_BTV: Tensor | None = None
    in_place_BTV: Tensor | None = None


@dataclass(frozen=True)
class Pass:
    """One pass that has been made: its batch, its subset, its teachers.

    `frames_B` says how many frames, or labels, of each output count; it is on the CPU. `teacher_forced`: the outputs
    are a decoder's, one a label.
    """

    batch: Batch
    frames_B: Tensor
    subset: Blocks
    teachers: Teachers
    teacher_forced: bool = False

    def transcript(self, logp_BTV: Tensor) -> Tensor:
        """Return the loss per label of an output for the transcript: CTC, or a decoder's cross-entropy."""
        if not self.teacher_forced:
            return self.ctc(logp_BTV)
        tokens_BU = self.batch.tokens_BU.to(logp_BTV.device, non_blocking=True)
        return cross_entropy(logp_BTV, tokens_BU, self.batch.token_lengths_B)

    def ctc(self, logp_BTV: Tensor) -> Tensor:
        """Return the CTC loss per label of an output."""
        tokens_BU = self.batch.tokens_BU.to(logp_BTV.device, non_blocking=True)
        return ctc(logp_BTV, self.frames_B, tokens_BU, self.batch.token_lengths_B)

    def distillation(self, teacher_BTV: Tensor, logp_BTV: Tensor) -> Tensor:
        """Return KL(teacher || output), mean over the frames that count."""
        return distillation(teacher_BTV, logp_BTV, self.frames_B)


class Objective(ObjectiveSettings, ABC):
    """The base of an objective of one's own. Its fields are its settings in a recipe, beside `name`.

    The methods that it inherits say what it asks for: `asks_reference`, `exits_at`, `asks_full_pass`.
    """

    @abstractmethod
    def loss(self, output: EncoderOutput, passed: Pass) -> LossTerms:
        """Return the losses of one pass; its gradients are those of `total`.

        `output.exits_BTV` are the outputs that `exits_at` asked for, in that order; `teachers` hold what
        `asks_reference` and `asks_full_pass` asked for, else none. Give `posteriors_BTV` where other passes learn from
        it.
        """


def loss_terms(
    student: nn.Module,
    batch: Batch,
    inputs: NetworkInputs,
    subset: Blocks,
    teachers: Teachers,
    objective: ObjectiveSettings,
) -> LossTerms:
    """Make one pass with `subset` and compute its losses, as the objective says."""
    one_depth = not isinstance(subset, ChunkSchedule) or len(subset.subsets) == 1
    depths = objective.exits_at(subset.depth) if one_depth else ()  # of a depth that changes, the last output alone
    output: EncoderOutput = student(inputs.masked, inputs.lengths_B, subset, depths, *inputs.given)
    passed = Pass(batch, inputs.frames_B, subset, teachers, inputs.tokens_BU is not None)
    if isinstance(objective, ObjectiveConfig):
        return _losses(output, depths, passed, objective)
    if not isinstance(objective, Objective):
        raise UserError(
            f"objective {objective.name} has no loss; derive it from layerdial.training.objective.Objective"
        )
    found: Any = objective.loss(output, passed)
    if not isinstance(found, LossTerms) or found.total.numel() != 1:
        raise UserError(f"objective {objective.name} returned {found!r:.80}; loss returns LossTerms of scalars")
    return found


def _losses(output: EncoderOutput, depths: tuple[int, ...], passed: Pass, objective: ObjectiveConfig) -> LossTerms:
    """Compute the transcript's loss and what the groups of `ObjectiveConfig` add to it, at every output of a pass."""
    own = _output_loss(output.log_probs_BTV, passed, objective)
    exits, subset = objective.exits, passed.subset
    if exits is None:
        return own
    weights = (subset.n_blocks / subset.depth) ** exits.power
    total = weights * own.total
    for depth, exit_BTV in zip(depths, output.exits_BTV, strict=True):
        weight = exits.weight * (subset.n_blocks / depth) ** exits.power
        terms = _output_loss(exit_BTV, passed, objective)
        total, weights = total + weight * terms.total, weights + weight
        if exits.distil_weight:
            kl = passed.distillation(output.log_probs_BTV.detach(), exit_BTV)
            total = total + weight * exits.distil_weight * kl
    return replace(own, total=total / weights)


def _output_loss(logp_BTV: Tensor, passed: Pass, objective: ObjectiveConfig) -> LossTerms:
    """Compute the transcript's loss of one output, and its divergences from the teachers that there are."""
    teachers = passed.teachers
    transcript_loss = passed.transcript(logp_BTV)
    total, kl = transcript_loss, torch.zeros_like(transcript_loss)
    if objective.in_place is not None and teachers.in_place_BTV is not None:
        diverge = alpha_divergence if objective.in_place.divergence == "alpha" else distillation
        divergence = diverge(teachers.in_place_BTV, logp_BTV, passed.frames_B)
        total = objective.in_place.ctc_weight * transcript_loss + objective.in_place.weight * divergence
    if objective.distil is not None and teachers.reference_BTV is not None:
        kl = passed.distillation(teachers.reference_BTV, logp_BTV)
        total = total + objective.distil.weight * kl
    return LossTerms(total, transcript_loss.detach(), kl.detach(), logp_BTV.detach())


def ask_reference(
    reference: Reference | None, batch: Batch, inputs: NetworkInputs, objective: ObjectiveSettings
) -> Teachers:
    """Return the reference's posteriors: those that the batch brings, else of the inputs that the objective says."""
    if batch.posteriors is not None:
        return Teachers(batch.posteriors.expand(inputs.masked.device))
    asked = objective.asks_reference()
    if reference is None or asked is None:
        return Teachers()
    given = inputs.unmasked if asked.inputs == "clean" else inputs.masked
    return Teachers(reference.posteriors(given, inputs.lengths_B, *inputs.given))


def skip_if_not_finite(optimizer: torch.optim.Optimizer, norm: Tensor) -> None:
    """If the gradient norm is not finite, let the next update change nothing; decided on the device, without waiting.

    `found_inf` is what torch's GradScaler sets for fused optimizers: neither weights, moments nor counters move.
    The run stops as soon as the loss is read.
    """
    optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
