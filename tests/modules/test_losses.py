"""CTC, KL and alpha divergence against other computations; padding and size of a batch must not matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from layerdial.modules.losses import alpha_divergence, ctc, ctc_per_utterance, distillation

LENGTHS = torch.tensor([9, 4, 6])


def log_posteriors(seed: int, batch: int = 3, frames: int = 9, sharpness: float = 2.0) -> Tensor:
    """Peaky ones, many frames almost surely blank, as CTC's are."""
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(batch, frames, 5, generator=generator)
    logits[..., 0] += 8.0 * (torch.rand(batch, frames, generator=generator) < 0.5)
    return logits.log_softmax(-1)


def kl_by_hand(reference: Tensor, student: Tensor) -> float:
    """Frame by frame, in float64, as the docstring says it."""
    total, frames = 0.0, 0
    for row, length in enumerate(LENGTHS.tolist()):
        for frame in range(length):
            p, q = (np.exp(t[row, frame].double().numpy()) for t in (reference, student))
            total += float((p * (np.log(p) - np.log(q))).sum())
            frames += 1
    return total / frames


def test_kl_equals_a_computation_by_hand() -> None:
    reference, student = log_posteriors(1), log_posteriors(2)
    found = distillation(reference, student, LENGTHS)
    assert found.item() == pytest.approx(kl_by_hand(reference, student), rel=1e-5)


def test_kl_is_that_of_torch_distributions() -> None:
    reference, student = log_posteriors(1), log_posteriors(2)
    kl_BT = kl_divergence(Categorical(logits=reference), Categorical(logits=student))
    valid = torch.arange(9) < LENGTHS.unsqueeze(1)
    torch.testing.assert_close(distillation(reference, student, LENGTHS), kl_BT[valid].mean())


def test_kl_is_zero_for_identical_models_and_positive_for_others() -> None:
    one, other = log_posteriors(1), log_posteriors(2)
    same = distillation(one, one.clone(), LENGTHS)
    assert abs(same.item()) < 1e-6 and distillation(one, other, LENGTHS) > 0.01


def test_the_gradient_of_kl_vanishes_at_the_reference() -> None:
    logits = log_posteriors(1).requires_grad_()
    distillation(logits.detach(), logits.log_softmax(-1), LENGTHS).backward()
    assert logits.grad is not None and logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize("rubbish", [0.0, -50.0, float("inf"), float("-inf"), float("nan")])
def test_kl_and_its_gradient_are_independent_of_padding(rubbish: float) -> None:
    padded = torch.arange(9) >= LENGTHS.unsqueeze(1)
    clean, dirty = [
        (log_posteriors(1), log_posteriors(2).requires_grad_()),
        (
            log_posteriors(1).masked_fill(padded.unsqueeze(2), rubbish),
            log_posteriors(2).masked_fill(padded.unsqueeze(2), rubbish).requires_grad_(),
        ),
    ]
    losses = [distillation(reference, student, LENGTHS) for reference, student in (clean, dirty)]
    for loss in losses:
        loss.backward()
    assert torch.equal(*losses)
    assert torch.equal(clean[1].grad, dirty[1].grad)
    assert (dirty[1].grad[padded] == 0).all()


def test_kl_does_not_grow_with_frames_utterances_or_padding() -> None:
    reference, student = log_posteriors(1), log_posteriors(2)
    lengths_B = torch.full((3,), 9)
    once = distillation(reference, student, lengths_B)
    longer = [t.repeat(1, 4, 1) for t in (reference, student)]
    wider = [t.repeat(5, 1, 1) for t in (reference, student)]
    padded = [torch.nn.functional.pad(t, (0, 0, 0, 30)) for t in (reference, student)]
    torch.testing.assert_close(distillation(*longer, lengths_B * 4), once)
    torch.testing.assert_close(distillation(*wider, lengths_B.repeat(5)), once)
    torch.testing.assert_close(distillation(*padded, lengths_B), once)


def test_ctc_equals_torch_utterance_by_utterance() -> None:
    logp, lengths = log_posteriors(3), [9, 4, 6]
    labels = [[1, 2, 2, 3], [4], [3, 1]]
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(label) for label in labels], batch_first=True)
    token_lengths = torch.tensor([4, 1, 2])
    alone = torch.stack(
        [
            torch.nn.functional.ctc_loss(logp[i, :n], torch.tensor(label), (n,), (len(label),), reduction="sum")
            for i, (n, label) in enumerate(zip(lengths, labels, strict=True))
        ]
    )
    torch.testing.assert_close(ctc_per_utterance(logp, LENGTHS, tokens, token_lengths), alone)
    torch.testing.assert_close(ctc(logp, LENGTHS, tokens, token_lengths), alone.sum() / 7)


def test_ctc_is_the_sum_over_all_alignments() -> None:
    logp = log_posteriors(4, batch=1, frames=4)
    paths = [[1, 2, 2, 2], [1, 1, 2, 2], [1, 1, 1, 2], [0, 1, 2, 2], [0, 1, 1, 2], [0, 0, 1, 2], [1, 0, 2, 2]]
    paths += [[1, 1, 0, 2], [1, 0, 0, 2], [0, 1, 0, 2], [1, 2, 2, 0], [1, 1, 2, 0], [0, 1, 2, 0], [1, 0, 2, 0]]
    paths += [[1, 2, 0, 0]]
    scores = torch.stack([logp[0, torch.arange(4), path].sum() for path in torch.tensor(paths)])
    found = ctc_per_utterance(logp, torch.tensor([4]), torch.tensor([[1, 2]]), torch.tensor([2]))
    torch.testing.assert_close(found[0], -scores.logsumexp(0))


@pytest.mark.parametrize("rubbish", [7.0, float("inf"), float("nan")])
def test_ctc_and_its_gradient_are_independent_of_padding(rubbish: float) -> None:
    padded = (torch.arange(9) >= LENGTHS.unsqueeze(1)).unsqueeze(2)
    tokens, token_lengths = torch.tensor([[1, 2], [3, 0], [2, 4]]), torch.tensor([2, 1, 2])
    clean = log_posteriors(5).requires_grad_()
    dirty = log_posteriors(5).masked_fill(padded, rubbish).requires_grad_()
    losses = [ctc(logp, LENGTHS, tokens, token_lengths) for logp in (clean, dirty)]
    for loss in losses:
        loss.backward()
    assert torch.equal(*losses) and torch.equal(clean.grad, dirty.grad)


# ---------------------------------------------------------------------------------------------------- alpha divergence


def alpha_by_hand(teacher: Tensor, student: Tensor, clip: float) -> tuple[float, Tensor]:
    """Value, and gradient with respect to the student's logits, frame by frame in float64, as AlphaNet defines them."""
    total, gradient = 0.0, torch.zeros_like(student, dtype=torch.float64)
    for row, length in enumerate(LENGTHS.tolist()):
        for frame in range(length):
            log_p, log_q = teacher[row, frame].double(), student[row, frame].double()
            p, q = log_p.exp(), log_q.exp()
            power = (q / p).clamp(max=clip)  # (p / q)^-1
            reverse, kl = float((q * (power - 1)).sum() / 2), float((p * (log_p - log_q)).sum())
            total += max(reverse, kl)
            weight = q * power if reverse > kl else p
            gradient[row, frame] = q * weight.sum() - weight if reverse <= kl else weight - q * weight.sum()
    return total / int(LENGTHS.sum()), gradient / LENGTHS.sum()


@pytest.mark.parametrize("clip", [1.5, 5.0, 1e6])
def test_alpha_divergence_and_its_gradient_equal_a_computation_by_hand(clip: float) -> None:
    teacher, logits = log_posteriors(1), log_posteriors(2).requires_grad_()
    found = alpha_divergence(teacher, logits.log_softmax(-1), LENGTHS, clip)
    found.backward()
    value, gradient = alpha_by_hand(teacher, logits.detach().log_softmax(-1), clip)
    assert found.item() == pytest.approx(value, rel=1e-5)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.double(), gradient, rtol=1e-4, atol=1e-7)


def test_alpha_divergence_takes_the_larger_of_its_two_ends_in_each_frame() -> None:
    lengths_B = torch.tensor([1])
    sure, unsure = (torch.tensor([[p]]).log() for p in ([0.94, 0.02, 0.02, 0.02], [0.4, 0.2, 0.2, 0.2]))
    for teacher, student in ((sure, unsure), (unsure, sure)):
        kl = distillation(teacher, student, lengths_B)
        reverse = 0.5 * (student.exp() * (student.exp() / teacher.exp() - 1)).sum()
        found = alpha_divergence(teacher, student, lengths_B, clip=1e6)
        torch.testing.assert_close(found, torch.maximum(kl, reverse))
    assert alpha_divergence(unsure, unsure, lengths_B).abs() < 1e-6


def test_the_clip_keeps_a_teacher_that_excludes_a_token_from_making_the_gradient_explode() -> None:
    teacher = torch.tensor([[[0.0, -200.0, -200.0]]]).log_softmax(-1)
    sizes = []
    for clip in (5.0, 1e30):
        logits = torch.zeros(1, 1, 3, requires_grad=True)
        alpha_divergence(teacher, logits.log_softmax(-1), torch.tensor([1]), clip).backward()
        assert logits.grad is not None
        sizes.append(float(logits.grad.abs().max()))
    assert sizes[0] < 5 and sizes[1] > 1e20


@pytest.mark.parametrize("rubbish", [0.0, float("inf"), float("nan")])
def test_alpha_divergence_and_its_gradient_are_independent_of_padding(rubbish: float) -> None:
    padded = (torch.arange(9) >= LENGTHS.unsqueeze(1)).unsqueeze(2)
    clean, dirty = log_posteriors(2).requires_grad_(), log_posteriors(2).masked_fill(padded, rubbish).requires_grad_()
    found = [
        alpha_divergence(log_posteriors(1), clean, LENGTHS),
        alpha_divergence(log_posteriors(1).masked_fill(padded, rubbish), dirty, LENGTHS),
    ]
    for loss in found:
        loss.backward()
    assert torch.equal(*found) and torch.equal(clean.grad, dirty.grad)
