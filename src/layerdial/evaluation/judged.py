"""Words whose confidence is compared with the share of right ones, and the map that brings both together.

The map is a line on the log-odds, fitted by the likelihood (Platt 1999).

Shapes: W words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerdial.errors import UserError
from layerdial.recognition.calibration import Curve, log_odds

BINS, FOLDS = 10, 5
_STEPS = 50  # of Newton's method, which needs about five


@dataclass(frozen=True)
class JudgedWords:
    """Words that were recognised: their confidence, whether they were said, and who spoke."""

    confidence_W: NDArray[np.float64]
    right_W: NDArray[np.bool_]
    speakers: tuple[str, ...]

    @classmethod
    def of(cls, rows: Iterable[tuple[float, bool, str]]) -> JudgedWords:
        """Return the words of rows. Raises `UserError` where there are none."""
        confidence, right, speakers = zip(*found, strict=True) if (found := list(rows)) else ((), (), ())
        if not found:
            raise UserError("no word was recognised, so there is no confidence to compare; give other cuts")
        return cls(np.array(confidence), np.array(right), speakers)

    def __len__(self) -> int:
        return len(self.speakers)

    def error(self, confidence_W: NDArray[np.float64] | None = None) -> float:
        """Return the expected calibration error of their confidence, or of another (Naeini et al. 2015).

        It is the mean over words of the distance, in each of ten bins of confidence, between mean and share of right.
        """
        p_W = self.confidence_W if confidence_W is None else confidence_W
        bins_W = bins_of(p_W)
        sums = np.bincount(bins_W, p_W - self.right_W, minlength=BINS)
        return float(np.abs(sums).sum() / len(self))


def bins_of(confidence_W: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the bin of each confidence, of ten that are equally wide."""
    return np.minimum((BINS * confidence_W).astype(np.int64), BINS - 1)


def fitted_line(confidence_W: NDArray[np.float64], right_W: NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and offset on the log-odds. As in Platt, the targets keep a little away from 0 and 1."""
    x_W = np.array([log_odds(p) for p in confidence_W.tolist()])
    n_right, n_wrong = int(right_W.sum()), int((~right_W).sum())
    target_W = np.where(right_W, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
    line = np.array([0.0, log_odds(float(target_W.mean()))])
    design_WK = np.stack([x_W, np.ones_like(x_W)], axis=1)
    for _ in range(_STEPS):
        p_W = 1 / (1 + np.exp(-np.clip(design_WK @ line, -50, 50)))
        curvature = design_WK.T @ (design_WK * (p_W * (1 - p_W))[:, None]) + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, design_WK.T @ (target_W - p_W))
        line = line + step
        if np.abs(step).max() < 1e-8:
            break
    if line[0] < 0:  # the less sure, the more often right: then confidence says nothing
        return 0.0, log_odds(float(target_W.mean()))
    return float(line[0]), float(line[1])


def fitted_curve(depth: int, words: JudgedWords) -> Curve:
    """Return the map of a depth, with the errors before it, and by maps that were fitted to other speakers."""
    errors = words.error(), words.error(cross_fitted(words))
    return Curve(depth, *fitted_line(words.confidence_W, words.right_W), len(words), *errors)


def cross_fitted(words: JudgedWords) -> NDArray[np.float64]:
    """Return the calibrated confidence (W,) of words, that of each fold by a map that was fitted to the others."""
    folds_W = _folds(words)
    calibrated_W = np.empty(len(words))
    for fold in np.unique(folds_W).tolist():
        own_W = folds_W == fold
        others_W = ~own_W if not own_W.all() else own_W
        line = fitted_line(words.confidence_W[others_W], words.right_W[others_W])
        curve = Curve(0, *line, 0, 0.0, 0.0)
        calibrated_W[own_W] = [curve(p) for p in words.confidence_W[own_W].tolist()]
    return calibrated_W


def _folds(words: JudgedWords) -> NDArray[np.int64]:
    """Return the fold (W,) of each word: that of its speaker; of a single speaker's words, stretches of them."""
    sizes = Counter(words.speakers).most_common()
    if len(sizes) == 1:
        return np.arange(len(words)) * FOLDS // len(words)
    counts, fold_of = [0] * min(FOLDS, len(sizes)), dict[str, int]()
    for name, size in sizes:
        fold_of[name] = counts.index(min(counts))
        counts[fold_of[name]] += size
    return np.array([fold_of[name] for name in words.speakers])
