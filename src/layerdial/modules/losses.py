"""CTC and distillation losses.

Shapes: B batch, T frames, V vocabulary, U labels. Log-probabilities are float32. Padding frames never count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from layerdial.modules.subsampling import frame_mask
from layerdial.text import BLANK

BlankHandling = Literal["keep", "skip_blank_frames", "without_blank"]
BLANK_FRAME_PROBABILITY = 0.95


@dataclass(frozen=True)
class LossTerms:
    """Scalars, still on the device: `total` is what is minimised; the others are of the pass's own output.

    `posteriors_BTV`: the log-probabilities of that output, without gradient, for other passes to learn from.
    """

    total: Tensor
    ctc: Tensor
    distil: Tensor
    posteriors_BTV: Tensor | None = None


def ctc_per_utterance(logp_BTV: Tensor, lengths_B: Tensor, tokens_BU: Tensor, token_lengths_B: Tensor) -> Tensor:
    """CTC loss (Graves et al. 2006) of each utterance, summed over its labels: (B,).

    Lengths may live on the CPU while the rest is on an accelerator; that spares a synchronisation.
    """
    return F.ctc_loss(logp_BTV.transpose(0, 1), tokens_BU, lengths_B, token_lengths_B, blank=BLANK, reduction="none")


def ctc(logp_BTV: Tensor, lengths_B: Tensor, tokens_BU: Tensor, token_lengths_B: Tensor) -> Tensor:
    """CTC loss per label: summed over the batch, divided by the batch's labels."""
    losses_B = ctc_per_utterance(logp_BTV, lengths_B, tokens_BU, token_lengths_B)
    return losses_B.sum() / token_lengths_B.sum().clamp(min=1).to(losses_B.device, non_blocking=True)


def distillation(
    reference_BTV: Tensor,
    student_BTV: Tensor,
    lengths_B: Tensor,
    temperature: float = 1.0,
    blank: BlankHandling = "keep",
) -> Tensor:
    """KL(reference || student) over the frame posteriors, mean over the frames that count (DLD, arXiv 2601.16117).

    Both are log-probabilities (B, T, V). With a temperature both are softened, and the result is multiplied by its
    square so that gradients keep their size (Hinton et al. 2015). CTC posteriors are mostly blank, so `blank` says:
    "keep" all frames and tokens; "skip_blank_frames": leave out frames where the reference is surer than 0.95 of
    blank; "without_blank": compare the distributions over the labels alone, blank taken out and the rest
    renormalised, each frame weighted by the reference's probability of a label.
    """
    valid_BT = frame_mask(lengths_B.to(student_BTV.device, non_blocking=True), student_BTV.shape[1])
    # whatever stands in padding, also inf or nan, must reach neither the sum nor a gradient
    reference_BTV, student_BTV = (t.masked_fill(~valid_BT.unsqueeze(2), 0.0) for t in (reference_BTV, student_BTV))
    weight_BT = valid_BT.float()
    if blank == "skip_blank_frames":
        weight_BT = weight_BT * (reference_BTV[..., BLANK].exp() < BLANK_FRAME_PROBABILITY)
    if blank == "without_blank":
        weight_BT = weight_BT * (1.0 - reference_BTV[..., BLANK].exp())
        reference_BTV, student_BTV = reference_BTV[..., BLANK + 1 :], student_BTV[..., BLANK + 1 :]
    if temperature != 1.0 or blank == "without_blank":
        reference_BTV = (reference_BTV / temperature).log_softmax(dim=-1)
        student_BTV = (student_BTV / temperature).log_softmax(dim=-1)
    kl_BT = F.kl_div(student_BTV, reference_BTV, reduction="none", log_target=True).sum(dim=-1)
    return temperature**2 * (kl_BT * weight_BT).sum() / weight_BT.sum().clamp(min=1.0)


def alignment(reference_NBTD: Tensor, student_KBTD: Tensor, lengths_B: Tensor) -> Tensor:
    """Distance of hidden states: after the student's k-th of K blocks, and after ceil(k N / K) of the reference's N.

    Mean over the student's blocks, the valid frames and the width of the squared difference of layer-normalised
    states: two less twice their correlation, whatever their scale. (Hidden states as hints: Romero et al. 2015.)
    """
    n_blocks, depth = len(reference_NBTD), len(student_KBTD)
    matching = [math.ceil(k * n_blocks / depth) - 1 for k in range(1, depth + 1)]
    valid_BT = frame_mask(lengths_B.to(student_KBTD.device, non_blocking=True), student_KBTD.shape[2])
    total = torch.zeros((), device=student_KBTD.device)
    for state_BTD, goal_BTD in zip(student_KBTD, (reference_NBTD[i] for i in matching), strict=True):
        # padding can be anything, and must reach neither the sum nor a gradient
        state_BTD, goal_BTD = (
            F.layer_norm(x_BTD.float().masked_fill(~valid_BT.unsqueeze(2), 0.0), x_BTD.shape[-1:])
            for x_BTD in (state_BTD, goal_BTD)
        )
        total = total + ((state_BTD - goal_BTD).square().mean(dim=-1) * valid_BT).sum()
    return total / (depth * valid_BT.sum().clamp(min=1))


def alpha_divergence(teacher_BTV: Tensor, student_BTV: Tensor, lengths_B: Tensor, clip: float = 5.0) -> Tensor:
    """AlphaNet's adaptive divergence (Wang et al., arXiv 2102.07954), mean over valid frames; used by TODM.

    D_a(p, q) = 1 / (a (a - 1)) sum_k q_k ((p_k / q_k)^a - 1); of a = -1, which punishes a student that is too sure, and
    a -> 1, KL(p || q), the larger counts, frame by frame. Both are log-probabilities (B, T, V). The powers are clipped
    at `clip` and taken as constant weights of log q in the gradient, as AlphaNet does, so that a peaky teacher cannot
    make it explode.
    """
    valid_BT = frame_mask(lengths_B.to(student_BTV.device, non_blocking=True), student_BTV.shape[1])
    teacher_BTV, student_BTV = (t.masked_fill(~valid_BT.unsqueeze(2), 0.0) for t in (teacher_BTV, student_BTV))
    kl_BT = F.kl_div(student_BTV, teacher_BTV, reduction="none", log_target=True).sum(dim=-1)
    ratio_BTV = (student_BTV.detach() - teacher_BTV).clamp(max=math.log(clip)).exp()  # (p / q)^-1
    probability_BTV = student_BTV.detach().exp()
    value_BT = 0.5 * (probability_BTV * (ratio_BTV - 1.0)).sum(dim=-1)
    # d D_a / d log q_k = q_k (p_k / q_k)^a / -a, with the clipped power
    surrogate_BT = (probability_BTV * ratio_BTV * student_BTV).sum(dim=-1)
    reverse_BT = value_BT + surrogate_BT - surrogate_BT.detach()
    larger_BT = torch.where(value_BT > kl_BT.detach(), reverse_BT, kl_BT)
    return (larger_BT * valid_BT).sum() / valid_BT.sum().clamp(min=1)
