"""The picture of a calibration: the share of right words against their confidence, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdial.evaluation.judged import BINS, JudgedWords, bins_of
from layerdial.evaluation.plots import line_styles, new_figure, save_figure, style_axes

_FEWEST = 10  # words of a bin that is shown


def draw_reliability(
    words: Mapping[int, JudgedWords], after: Mapping[int, NDArray[np.float64]], path_png: Path, title: str
) -> None:
    """Draw a line for each depth: on the left by the model's confidence, on the right by the calibrated one `after`."""
    figure, _ = new_figure()
    figure.clear()
    left, right = figure.subplots(1, 2, sharey=True)
    for (depth, judged), style in zip(words.items(), line_styles(), strict=False):
        for axes, p_W in ((left, judged.confidence_W), (right, after[depth])):
            x, y = _points(p_W, judged.right_W)
            label = f"{depth} blocks, error {judged.error(p_W):.3f}"
            axes.plot(x, y, markersize=5.5, markeredgecolor="white", linewidth=1.8, label=label, **style)
    _finish(left, title, "confidence of the model", "share of right words")
    _finish(right, "calibrated", "confidence, by a map of other speakers")
    save_figure(figure, path_png)


def _points(p_W: NDArray[np.float64], right_W: NDArray[np.bool_]) -> tuple[list[float], list[float]]:
    """Return the mean confidence and the share of right words in each bin that has some."""
    bins_W = bins_of(p_W)
    counts = np.bincount(bins_W, minlength=BINS)
    shown = counts >= _FEWEST
    sums = (np.bincount(bins_W, values, minlength=BINS) for values in (p_W, right_W.astype(float)))
    x, y = ((sum_[shown] / counts[shown]).tolist() for sum_ in sums)
    return x, y


def _finish(axes: Any, title: str, x: str, y: str = "") -> None:
    axes.plot([0, 1], [0, 1], color="#8a8a8a", linewidth=1, linestyle=":", zorder=0)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    style_axes(axes, title, x, y)
    axes.legend(frameon=False, fontsize=8.5, loc="upper left")
