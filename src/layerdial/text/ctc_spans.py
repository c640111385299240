"""The frames in which CTC emits each label: of the best path, or of the most probable path of labels that are given.

Shapes: T frames, S states (a blank between any two labels, before the first and behind the last), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerdial.text.ctc import BLANK

LEAST_LOGP = -9.2  # of a token in a frame: what is less likely counts as this, and is not kept
_BAND = 256  # states that are followed at a time, which is more speech than any path is ahead of another
_NEVER = -np.inf


@dataclass(frozen=True, slots=True)
class LabelSpan:
    """A label, the frames from `first` to before `end` that emit it, and its largest log-probability there."""

    label: int
    first: int
    end: int
    logp: float


def best_path_spans(frame_ids: Sequence[int], logp_T: NDArray[np.float32]) -> list[LabelSpan]:
    """Return the labels of the best token of each frame, with the log-probabilities (T,) of these."""
    ids_T = np.asarray(frame_ids, np.int64)
    edges = np.flatnonzero(np.diff(ids_T, prepend=-1))
    if not len(edges):
        return []
    ends = np.append(edges[1:], len(ids_T))
    logps = np.maximum.reduceat(logp_T, edges)
    rows = zip(ids_T[edges].tolist(), edges.tolist(), ends.tolist(), logps.tolist(), strict=True)
    return [LabelSpan(*row) for row in rows if row[0] != BLANK]


class LikelyFrames:
    """The log-probabilities of frames that come one window after another, without what is hardly likely."""

    def __init__(self) -> None:
        self._parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
        self.n_frames, self.n_tokens = 0, 0

    def feed(self, logp_TV: NDArray[np.float32]) -> None:
        """Add frames (T, V)."""
        likely_TV = logp_TV > LEAST_LOGP
        likely_TV[np.arange(len(logp_TV)), logp_TV.argmax(axis=1)] = True
        frames, tokens = np.nonzero(likely_TV)
        self._parts.append((frames + self.n_frames, tokens, logp_TV[frames, tokens]))
        self.n_frames, self.n_tokens = self.n_frames + len(logp_TV), logp_TV.shape[1]

    def rows(self) -> Iterator[NDArray[np.float32]]:
        """Yield the log-probabilities (V,) of each frame; the array is used again for the next one."""
        row_V = np.full(self.n_tokens, LEAST_LOGP, np.float32)
        for frames, tokens, logps in self._parts:
            starts = np.flatnonzero(np.diff(frames, prepend=-1)).tolist()
            for start, end in zip(starts, [*starts[1:], len(frames)], strict=True):
                row_V[tokens[start:end]] = logps[start:end]
                yield row_V
                row_V[tokens[start:end]] = LEAST_LOGP


def aligned_spans(labels: Sequence[int], frames: LikelyFrames, band: int = _BAND) -> list[LabelSpan]:
    """Return the frames of labels on their most probable path (Viterbi).

    Raises `ValueError` where there are fewer frames than the labels need.
    """
    if not labels:
        return []
    while True:
        path = _path(labels, frames, band)
        if path is not None:
            return _spans(labels, path, frames)
        if band > 2 * len(labels):
            raise ValueError(f"{len(labels)} labels have no path through {frames.n_frames} frames")
        band *= 2


def _path(labels: Sequence[int], frames: LikelyFrames, band: int) -> list[int] | None:
    """Return the state of each frame, or None where the end is not reached among `band` states around the best."""
    tokens_S = np.full(2 * len(labels) + 1, BLANK)
    tokens_S[1::2] = labels
    n_states = len(tokens_S)
    barred_S = np.ones(n_states, bool)  # where a path may not leave out the blank
    barred_S[1], barred_S[3::2] = False, tokens_S[3::2] == tokens_S[1:-2:2]
    scores_S = np.full(n_states + 2, _NEVER)  # two states before the first, which nothing reaches
    scores_S[1] = 0.0  # before the first frame: as if a blank were there already
    steps: list[tuple[int, NDArray[np.int8]]] = []
    low = 0
    for row_V in frames.rows():
        high = min(n_states, low + band)
        ways = np.stack([scores_S[low + 2 : high + 2], scores_S[low + 1 : high + 1], scores_S[low:high]])
        ways[2, barred_S[low:high]] = _NEVER
        best = ways.argmax(axis=0)
        steps.append((low, best.astype(np.int8)))
        scores_S[low : low + 2] = _NEVER
        scores_S[low + 2 : high + 2] = ways[best, np.arange(high - low)] + row_V[tokens_S[low:high]]
        ahead = low + int(scores_S[low + 2 : high + 2].argmax()) - band // 2
        if ahead > low:
            scores_S[low + 2 : ahead + 2] = _NEVER
            low = ahead
    state = n_states - 1 if scores_S[-1] >= scores_S[-2] else n_states - 2
    return None if scores_S[state + 2] == _NEVER else _back(steps, state)


def _back(steps: Sequence[tuple[int, NDArray[np.int8]]], state: int) -> list[int]:
    path = list[int]()
    for low, best in reversed(steps):
        path.append(state)
        state -= int(best[state - low])
    return path[::-1]


def _spans(labels: Sequence[int], path: Sequence[int], frames: LikelyFrames) -> list[LabelSpan]:
    """Return the labels with the frames in which the path is in their states."""
    found = list[LabelSpan]()
    for frame, (state, row_V) in enumerate(zip(path, frames.rows(), strict=True)):
        if state % 2 == 0:
            continue
        label = labels[state // 2]
        logp = float(row_V[label])
        if len(found) == state // 2 + 1:
            found[-1] = LabelSpan(label, found[-1].first, frame + 1, max(found[-1].logp, logp))
        else:
            found.append(LabelSpan(label, frame, frame + 1, logp))
    return found
