"""Greedy CTC: the best token of each frame as labels (Graves et al. 2006)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

BLANK = 0


def greedy_ctc(frame_ids: Sequence[int]) -> list[int]:
    """Return the labels of the best token of each frame: repeats merged, then blanks removed (Graves 2006)."""
    return [token for i, token in enumerate(frame_ids) if token != BLANK and (i == 0 or token != frame_ids[i - 1])]


def batch_texts(
    decode: Callable[[list[int]], str], best_BT: Iterable[Sequence[int]], lengths_B: Iterable[int]
) -> list[str]:
    """Return the texts of a batch, from its best tokens (B, T) and valid frames (B,)."""
    return [decode(greedy_ctc(best_T[:length])) for best_T, length in zip(best_BT, lengths_B, strict=True)]


def ctc_frames_needed(labels: Sequence[int]) -> int:
    """Return the fewest frames that CTC can align `labels` with: one each, and a blank between equal neighbours."""
    return len(labels) + sum(a == b for a, b in itertools.pairwise(labels))
