"""Hidden states of the blocks that run are aligned with the reference's at the same relative depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from layerdial.config import ObjectiveConfig
from layerdial.errors import UserError
from layerdial.modules.losses import alignment
from layerdial.subset import BlockSubset
from layerdial.training.loop import train
from layerdial.training.reference import Reference
from layerdial.training.step import ask_reference, loss_terms
from test_exits import spoken
from tiny import losses, noise, tiny_network, tiny_recipe

FULL = BlockSubset.full(4)


def states(blocks: int, seed: int) -> torch.Tensor:
    return torch.randn(blocks, 2, 5, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("depth", "matching"), [(1, [4]), (2, [2, 4]), (3, [2, 3, 4]), (4, [1, 2, 3, 4]), (8, [1, 1, 2, 2, 3, 3, 4, 4])]
)
def test_the_distance_is_that_of_normalised_states_at_the_same_relative_depth(depth: int, matching: list[int]) -> None:
    reference_NBTD, student_KBTD = states(4, 0), states(depth, 1)
    frames = [(0, t) for t in range(5)] + [(1, t) for t in range(3)]
    expected = [
        (F.layer_norm(student_KBTD[k, b, t], (6,)) - F.layer_norm(reference_NBTD[match - 1, b, t], (6,)))
        .square()
        .mean()
        for k, match in enumerate(matching)
        for b, t in frames
    ]
    lengths_B = torch.tensor([5, 3])
    torch.testing.assert_close(alignment(reference_NBTD, student_KBTD, lengths_B), torch.stack(expected).mean())
    moved_NBTD = 3.0 * reference_NBTD + 1.0  # whatever their scale and mean
    torch.testing.assert_close(
        alignment(moved_NBTD, student_KBTD, lengths_B), torch.stack(expected).mean(), atol=1e-4, rtol=1e-4
    )
    assert alignment(moved_NBTD, reference_NBTD, lengths_B) < 1e-4


@pytest.mark.parametrize("junk", [float("nan"), float("inf"), 1e9])
def test_padding_reaches_neither_the_distance_nor_a_gradient(junk: float) -> None:
    lengths_B = torch.tensor([5, 3])
    clean, dirty = states(2, 1).requires_grad_(), states(2, 1)
    dirty[:, 1, 3:] = junk
    dirty.requires_grad_()
    reference_NBTD = states(4, 0)
    expected = alignment(reference_NBTD, clean, lengths_B)
    reference_NBTD[:, 1, 3:] = junk
    found = alignment(reference_NBTD, dirty, lengths_B)
    torch.testing.assert_close(found, expected)
    for total in (expected, found):
        total.backward()
    assert dirty.grad is not None and clean.grad is not None
    torch.testing.assert_close(dirty.grad, clean.grad)
    assert not dirty.grad[:, 1, 3:].any()


@torch.no_grad()
@pytest.mark.parametrize("key", ["1111", "0110", "1000"])
def test_streams_are_what_passes_of_fewer_blocks_end_with(key: str) -> None:
    network, batch, subset = tiny_network(), noise([61, 40]), BlockSubset.from_key(key)
    exits = range(1, subset.depth)
    logp_BTV, _, *more = network(*batch, subset, exits=exits, streams=True)
    assert len(more) == len(exits) + 1  # the streams are last
    streams_KBTD = more[-1]
    assert streams_KBTD.shape == (subset.depth, *logp_BTV.shape[:2], network.width)
    for depth, stream_BTD in enumerate(streams_KBTD, 1):
        shorter = BlockSubset(4, subset.kept[:depth])
        found = network.head(network.norm(stream_BTD)).log_softmax(dim=-1)
        assert torch.equal(found, network(*batch, shorter)[0])


def teach(student: Any, reference: Reference | None, subset: BlockSubset, **objective: Any) -> Any:
    batch, heard = spoken(student)
    settings = ObjectiveConfig(**objective)
    return loss_terms(student, batch, heard, subset, ask_reference(reference, batch, heard, settings), settings)


@pytest.mark.parametrize("exits", ["none", "all"])
def test_the_loss_is_ctc_and_the_weighted_distance(exits: str) -> None:
    student, subset = tiny_network(), BlockSubset.from_key("1011")
    reference = Reference(tiny_network(seed=5), None, Path("reference"))  # type: ignore[arg-type]
    _, heard = spoken(student)
    plain = teach(student, None, subset, exits=exits)
    found = teach(student, reference, subset, exits=exits, align_weight=0.3)
    distance = alignment(
        reference.posteriors_and_streams(heard.inputs, heard.lengths_B)[1],
        student(heard.inputs, heard.lengths_B, subset, streams=True)[-1],
        heard.frames_B,
    )
    assert distance > 0.1
    torch.testing.assert_close(found.total, plain.total + 0.3 * distance)
    found.total.backward()
    assert not any(p.grad is not None for p in reference.network.parameters())
    same = Reference(tiny_network(), None, Path("reference"))  # type: ignore[arg-type]
    aligned, alone = (teach(student, one, FULL, **asked) for one, asked in ((same, {"align_weight": 1.0}), (None, {})))
    torch.testing.assert_close(aligned.total, alone.total)


def test_a_run_is_aligned_also_without_kl(corpus: Any, learnt: Path, tmp_path: Path) -> None:
    changes = (f"reference={learnt}", "train.steps=4")
    runs = [
        losses(train(tiny_recipe(tmp_path / name, corpus.train, corpus.dev, *changes, *more)).parent)
        for name, more in (("plain", []), ("aligned", ["objective.align_weight=0.5", "objective.teacher=clean"]))
    ]
    plain, aligned = runs
    assert plain[1][1] == aligned[1][1]  # the same CTC at first
    assert all(aligned[step][0] > aligned[step][1] for step in aligned)  # and the distance besides


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["objective.align_weight=1"], "align_weight is above 0 but there is no reference"),
        (["reference={learnt}", "objective={{align_weight: 1, teacher: cached}}"], "hidden states are not stored"),
        (["reference={learnt}", "objective.align_weight=1", "model.width=16"], "is 32 wide and the student 16"),
        (
            ["reference={learnt}", "objective.align_weight=1", "model.selector=input", "policy.subsets=chosen"],
            "align_weight is for subsets that are known",
        ),
    ],
)
def test_what_cannot_be_aligned_is_one_line(
    corpus: Any, learnt: Path, tmp_path: Path, changes: list[str], problem: str
) -> None:
    filled = [change.format(learnt=learnt) for change in changes]
    with pytest.raises(UserError, match=problem):
        train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *filled))
    assert not (tmp_path / "run").exists()
