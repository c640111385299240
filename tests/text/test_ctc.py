"""CTC: greedy decoding undoes any alignment, and the frames that labels need."""

from __future__ import annotations

import itertools
from random import Random

import pytest
import torch

from layerdial.text.ctc import ctc_frames_needed, greedy_ctc


@pytest.mark.parametrize(
    ("frames", "labels"),
    [
        ([], []),
        ([0, 0, 0], []),
        ([1], [1]),
        ([1, 1, 1], [1]),
        ([1, 0, 1], [1, 1]),
        ([0, 3, 3, 0, 0, 3, 2, 2, 1, 0], [3, 3, 2, 1]),
    ],
)
def test_greedy_ctc_merges_repeats_then_drops_blanks(frames: list[int], labels: list[int]) -> None:
    assert greedy_ctc(frames) == labels


def test_greedy_ctc_undoes_any_alignment() -> None:
    random = Random(0)
    for _ in range(200):
        labels = random.choices([1, 2, 3], k=random.randint(0, 6))
        frames: list[int] = [0] * random.randint(0, 2)
        for before, label in zip([None, *labels], labels, strict=False):
            frames += [0] * random.randint(int(before == label), 2) + [label] * random.randint(1, 3)
        assert greedy_ctc(frames) == labels


def test_ctc_is_finite_exactly_from_the_frames_needed_on() -> None:
    for labels in itertools.product([1, 2], repeat=3):
        for n_frames in range(1, 8):
            logp = torch.zeros(n_frames, 1, 3).log_softmax(-1)
            loss = torch.nn.functional.ctc_loss(logp, torch.tensor([labels]), [n_frames], [3], reduction="none")
            assert bool(loss.isfinite()) == (n_frames >= ctc_frames_needed(labels))
