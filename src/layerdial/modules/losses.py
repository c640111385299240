"""CTC and distillation losses.

Shapes: B batch, T frames, V vocabulary, U labels. Log-probabilities are float32. Padding frames never count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from layerdial.modules.subsampling import frame_mask
from layerdial.text.ctc import BLANK


@dataclass(frozen=True)
class LossTerms:
    """Scalars, still on the device: `total` is minimised; the others are of the pass's own output.

    `posteriors_BTV`: the log-probabilities of that output, without gradient, as targets for other passes.
    """

    total: Tensor
    ctc: Tensor
    distil: Tensor
    posteriors_BTV: Tensor | None = None


def ctc_per_utterance(logp_BTV: Tensor, lengths_B: Tensor, tokens_BU: Tensor, token_lengths_B: Tensor) -> Tensor:
    """Return the CTC loss (Graves et al. 2006) of each utterance, summed over its labels: (B,).

    Lengths may be on the CPU while the rest is on an accelerator; that avoids a synchronisation.
    """
    return F.ctc_loss(logp_BTV.transpose(0, 1), tokens_BU, lengths_B, token_lengths_B, blank=BLANK, reduction="none")


def ctc(logp_BTV: Tensor, lengths_B: Tensor, tokens_BU: Tensor, token_lengths_B: Tensor) -> Tensor:
    """Return the CTC loss per label: summed over the batch, divided by the batch's labels."""
    losses_B = ctc_per_utterance(logp_BTV, lengths_B, tokens_BU, token_lengths_B)
    return losses_B.sum() / token_lengths_B.sum().clamp(min=1).to(losses_B.device, non_blocking=True)


def cross_entropy(logp_BUV: Tensor, tokens_BU: Tensor, token_lengths_B: Tensor) -> Tensor:
    """Return the cross-entropy per label of a decoder's log-probabilities (B, U, V), padding left out."""
    losses_B = cross_entropy_per_utterance(logp_BUV, tokens_BU, token_lengths_B)
    return losses_B.sum() / token_lengths_B.sum().clamp(min=1).to(losses_B.device, non_blocking=True)


def cross_entropy_per_utterance(logp_BUV: Tensor, tokens_BU: Tensor, token_lengths_B: Tensor) -> Tensor:
    """Return the cross-entropy of each utterance, summed over its labels: (B,)."""
    real_BU = frame_mask(token_lengths_B.to(logp_BUV.device, non_blocking=True), logp_BUV.shape[1])
    picked_BU = logp_BUV.gather(2, tokens_BU.unsqueeze(2)).squeeze(2)
    return -picked_BU.masked_fill(~real_BU, 0.0).sum(dim=1)


def distillation(reference_BTV: Tensor, student_BTV: Tensor, lengths_B: Tensor) -> Tensor:
    """Return KL(reference || student) over the frame posteriors, mean over the frames that count (arXiv 2601.16117).

    Both are log-probabilities (B, T, V).
    """
    valid_BT = frame_mask(lengths_B.to(student_BTV.device, non_blocking=True), student_BTV.shape[1])
    # values in padding, also inf or nan, must reach neither the sum nor a gradient
    reference_BTV, student_BTV = (t.masked_fill(~valid_BT.unsqueeze(2), 0.0) for t in (reference_BTV, student_BTV))
    kl_BT = F.kl_div(student_BTV, reference_BTV, reduction="none", log_target=True).sum(dim=-1)
    return (kl_BT * valid_BT).sum() / valid_BT.sum().clamp(min=1)


def alpha_divergence(teacher_BTV: Tensor, student_BTV: Tensor, lengths_B: Tensor, clip: float = 5.0) -> Tensor:
    """Return AlphaNet's adaptive divergence (Wang et al., arXiv 2102.07954), mean over valid frames; used by TODM.

    D_a(p, q) = 1 / (a (a - 1)) sum_k q_k ((p_k / q_k)^a - 1). Frame by frame the larger of two counts: a = -1, which
    penalises an overconfident student, and a -> 1, KL(p || q). Both arguments are log-probabilities (B, T, V). The
    powers are clipped at `clip` and used as constant weights of log q in the gradient, as in AlphaNet. So a peaky
    teacher cannot make the gradient explode.
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
