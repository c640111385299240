"""The picture of `serving.py`: latency and errors against the load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layerdial.evaluation.plots import finish_axes, line_styles, save_figure

LINES = {  # the rows that are drawn, and their names
    "depth by load": "depth by load",
    "full depth, unbounded queue": "full depth, unbounded queue",
    "full depth, bounded queue": "full depth, bounded queue",
    "full depth, only what is in time": "full depth, only what is in time",
    "shallowest always": "shallowest always",
    "two models, switched": "two models, switched",
    "faster-whisper tiny.en, bounded queue": "faster-whisper tiny.en, bounded queue",
}


def draw(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw p95 and WER, refused and late words counted as deleted, against the offered load."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), dpi=160, layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_axes(left, rows, "p95_ms", "p95 of the answers", "milliseconds")
    draw_axes(right, rows, "wer_in_time", "errors, refused and late words counted as deleted", "WER, %")
    lines = left.get_lines()
    figure.legend(lines, [line.get_label() for line in lines], loc="outside lower center", ncols=3, frameon=False)
    save_figure(figure, file)


def draw_axes(axes: Any, rows: Sequence[dict[str, Any]], value: str, title: str, y: str) -> None:
    """Draw a line for each policy."""
    drawn = list[float]()
    for (policy, label), style in zip(LINES.items(), line_styles(), strict=False):
        points = [(row["load"], row[value]) for row in rows if row["policy"] == policy]
        if points:
            loads, values = zip(*points, strict=True)
            axes.plot(loads, values, label=label, **style)
            drawn += values
    finish_axes(axes, drawn, title, x="requests, in times of what full depth can do", y=y)
