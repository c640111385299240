"""The sandwich with the full-depth student as a teacher of the other passes, in the same step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from layerdial.config.objective import ObjectiveConfig
from layerdial.modules.losses import LossTerms, alpha_divergence, ctc, distillation
from layerdial.subset import Blocks, BlockSubset
from layerdial.training import update
from layerdial.training.loop import train
from layerdial.training.objective import Teachers, loss_terms
from tiny import losses, tiny_network, tiny_recipe
from tiny_training import spoken

IN_PLACE = ("policy.name=sandwich", "objective.in_place.weight=0.5", "train.steps=1", "train.eval_every=1")


@pytest.mark.parametrize("teacher", ["", "reference"])
@pytest.mark.parametrize("divergence", ["kl", "alpha"])
def test_a_step_has_the_gradient_of_its_passes_which_learn_from_the_full_one_and_not_it_from_them(
    corpus, learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, divergence: str, teacher: str
) -> None:
    """All passes put together by hand, with the weights as they were before the update."""
    calls: list[tuple[Any, ...]] = []
    compared: list[str] = []

    def recording(student: Any, batch: Any, inputs: Any, subset: Blocks, teachers: Teachers, *rest: Any) -> LossTerms:
        calls.append((student, batch, inputs, subset, teachers))
        return loss_terms(student, batch, inputs, subset, teachers, *rest)

    def compare(*_: Any) -> None:
        student, batch, inputs, _, teachers = calls[0]
        subsets = [subset for *_, subset, _ in calls]
        logps = [student(inputs.masked, inputs.lengths_B, subset)[0] for subset in subsets]
        labels = inputs.frames_B, batch.tokens_BU, batch.token_lengths_B
        total = ctc(logps[0], *labels)
        differ = alpha_divergence if divergence == "alpha" else distillation
        for logp in logps[1:]:
            total = total + 0.25 * ctc(logp, *labels) + 0.5 * differ(logps[0].detach(), logp, inputs.frames_B)
        if teacher:
            total = total + sum(distillation(teachers.reference_BTV, logp, inputs.frames_B) for logp in logps)
        parameters = dict(student.named_parameters())
        for name, wanted in zip(parameters, torch.autograd.grad(total / 3, parameters.values()), strict=True):
            torch.testing.assert_close(parameters[name].grad, wanted, rtol=1e-4, atol=1e-5, msg=name)
            compared.append(name)

    monkeypatch.setattr(update, "loss_terms", recording)
    monkeypatch.setattr(update, "skip_if_not_finite", compare)  # called between the last backward pass and the update
    changes = (*IN_PLACE, f"objective.in_place.divergence={divergence}", "objective.in_place.ctc_weight=0.25")
    changes += (f"init={learnt}", "optim.clip=1e9")
    if teacher:
        changes += (f"reference={learnt}", "objective.distil.weight=1")
    train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes))
    assert len(compared) > 30
    full, *others = calls
    assert full[3] == BlockSubset.full(3) and full[4].in_place_BTV is None
    assert all(teachers.in_place_BTV is not None for *_, teachers in others)
    assert sorted(subset.depth for *_, subset, _ in others)[0] == 1
    assert losses(tmp_path / "run")[1][5] == sum(subset.depth for *_, subset, _ in calls) / 3


def test_without_labels_the_other_passes_learn_from_the_full_one_alone() -> None:
    network = tiny_network()
    batch, inputs = spoken(network)
    full_BTV = network(inputs.masked, inputs.lengths_B, BlockSubset.full(4))[0].detach()
    reference_BTV = tiny_network(seed=5)(inputs.masked, inputs.lengths_B, BlockSubset.full(4))[0].detach()
    objective = ObjectiveConfig.model_validate(
        {"in_place": {"weight": 0.5, "ctc_weight": 0.0}, "distil": {"weight": 2.0}}
    )

    def total(subset: BlockSubset, teachers: Teachers) -> tuple[torch.Tensor, LossTerms]:
        terms = loss_terms(network, batch, inputs, subset, teachers, objective)
        return terms.total, terms

    shallow = BlockSubset.prefix(4, 2)
    found, terms = total(shallow, Teachers(in_place_BTV=full_BTV))
    assert terms.posteriors_BTV is not None and not terms.posteriors_BTV.requires_grad
    divergence = distillation(full_BTV, terms.posteriors_BTV, inputs.frames_B)
    torch.testing.assert_close(found, 0.5 * divergence)
    found, terms = total(shallow, Teachers(reference_BTV, full_BTV))
    torch.testing.assert_close(found, 0.5 * divergence + 2.0 * terms.distil)
    found, terms = total(BlockSubset.full(4), Teachers())
    assert torch.equal(found, terms.ctc)


def test_the_full_pass_is_the_teacher_also_when_the_random_one_has_every_block(corpus, tmp_path: Path) -> None:
    """The teacher learns from its labels, the other from the teacher."""
    changes = (*IN_PLACE[:2], "objective.in_place.ctc_weight=0", "train.steps=8", "train.eval_every=8")
    train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes))
    rows = losses(tmp_path / "run").values()
    assert (1 + 3 + 3) / 3 in {row[5] for row in rows}
    assert all(torch.tensor(row[:2]).isfinite().all() and row[0] < row[1] for row in rows)
