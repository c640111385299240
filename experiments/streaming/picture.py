"""WER against delay, and against computation: a line a depth, a point a size of chunks.

python experiments/streaming/picture.py experiments/results/streaming.jsonl ENTRY docs/images/streaming.png
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from layerdial.evaluation.plots import draw_line, finish_axes, line_styles, save_figure
from layerdial.utils.rows import read_rows

X = {
    "delay_ms_95": (1.0, "delay from the end of a word to its text, 95th percentile, milliseconds"),
    "macs_per_second": (1e-6, "million multiply-accumulates per second of audio"),
}


def main(rows_file: Path, entry: str, path_png: Path) -> None:
    rows = [row for row in read_rows(rows_file) if row["name"] == entry and row.get("delay_ms") and "chunk_ms" in row]
    if not rows:
        sys.exit(f"{rows_file} has no rows of {entry} in chunks whose words have known times")
    figure = Figure(figsize=(12, 5), dpi=160, layout="constrained")
    for axes, (key, (unit, name)) in zip(figure.subplots(1, 2), X.items(), strict=True):
        draw(axes, rows, key, unit, name)
    save_figure(figure, path_png)


def draw(axes: Any, rows: list[dict[str, Any]], key: str, unit: float, name: str) -> None:
    for depth, style in zip(sorted({row["depth"] for row in rows}), line_styles(), strict=False):
        line = sorted((row for row in rows if row["depth"] == depth), key=lambda row: row["chunk_ms"])
        x = [unit * row[key] for row in line]
        wer, low, high = ([100 * row[part] for row in line] for part in ("wer", "wer_low", "wer_high"))
        draw_line(axes, x, wer, low, high, label=f"{depth} of {line[0]['n_blocks']} blocks", **style)
        for row, at in zip(line, x, strict=True):
            axes.annotate(
                str(row["chunk_ms"]),
                (at, 100 * row["wer"]),
                **{"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "fontsize": 8},
            )
    rates = [100 * row["wer"] for row in rows]
    finish_axes(axes, rates, "", x=f"{name} (numbers: chunk, ms)", y="word error rate, %")
    axes.legend(frameon=False, title="shaded: 95 % interval", title_fontsize=8.5)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
