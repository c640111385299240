"""The picture of a sweep: word error rate against cost, one line a method."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from layerdial.errors import UserError
from layerdial.utils.files import replacing

# Okabe and Ito's colours, distinct for colour-blind readers too, each with a marker for print without colour.
_STYLES = [("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "D"), ("#CC79A7", "^"), ("#E69F00", "v"), ("#56B4E9", "P")]
_INK, _GREY = "#222222", "#8a8a8a"
_LINES_INSIDE = 6  # the most names that fit among the lines
_INCHES_A_NAME = 0.22  # of the names beside the lines


def draw_sweep(
    rows: Sequence[Mapping[str, Any]],
    path_png: Path,
    title: str = "",
    rate: str = "word error rate",
    band: str = "95 % interval",
) -> None:
    """Draw WER against MACs per second of audio: a line and a 95 % band a method (or selection rule).

    The lowest point of each cost is named by its depth. `rate` and `band` name `wer` and the band from `wer_low` to
    `wer_high` where they are something else. Rows without a WER are left out. Where a row has no MACs, all are drawn
    against depth. The WER axis is logarithmic when the WERs span more than a factor of ten. Raises `UserError` where no
    row has a WER.
    """
    rows = [row for row in rows if row.get("wer") is not None]
    if not rows:
        raise UserError(f"nothing to draw in {path_png}: no row has a WER")
    figure, axes = new_figure()
    unit, name = _cost_axis(rows)
    lines = _lines(rows)
    for (label, points), style in zip(lines.items(), line_styles(), strict=False):
        _draw_rows(axes, points, unit, label, style)
    _name_depths(axes, rows, unit)
    rates = [100 * float(row["wer"]) for row in rows]
    finish_axes(axes, rates, title, x=f"{name} (numbers at the points: blocks that run)", y=f"{rate}, %")
    if len(lines) > 1 or "" not in lines:
        add_legend(axes, band)
    save_figure(figure, path_png)


def draw_times(depths: Sequence[int], times_ms: Sequence[float], path_png: Path, title: str) -> None:
    """Draw milliseconds against depth."""
    figure, axes = new_figure()
    axes.plot(depths, times_ms, markersize=5.5, linewidth=1.8, **next(line_styles()))
    for depth, ms in zip(depths, times_ms, strict=True):
        above = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center", "fontsize": 8.5, "color": _INK}
        axes.annotate(f"{ms:.0f}", (depth, ms), **above)
    finish_axes(axes, times_ms, title, x="blocks that run", y="milliseconds of a whole request")
    axes.set_xticks(depths)
    save_figure(figure, path_png)


def new_figure() -> tuple[Any, Any]:
    """Return a figure of the size that all pictures have, and its axes. No window system is required."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=160, layout="constrained")
    return figure, figure.add_subplot()


def save_figure(figure: Any, path_png: Path) -> None:
    """Write a figure as PNG in one step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with replacing(path_png) as temporary:
        FigureCanvasAgg(figure).print_figure(temporary, format="png")


def _cost_axis(rows: Sequence[Mapping[str, Any]]) -> tuple[float | None, str]:
    """Return the MACs of one unit of the horizontal axis (None where it is depth), and the name of the axis."""
    macs = [row.get("macs_per_second") for row in rows]
    known = [value for value in macs if value is not None]
    if len(known) < len(macs):
        return None, "blocks that run"
    for unit, prefix in ((1e9, "billion "), (1e6, "million "), (1e3, "thousand ")):
        if max(known) >= unit:
            return unit, f"{prefix}multiply-accumulates per second of audio"
    return 1.0, "multiply-accumulates per second of audio"


def _lines(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return rows by the name of their line. Selection rule and search are part of it where there are several."""
    rules, searches, chunks = ({row.get(name) for row in rows} for name in ("select", "search", "chunk_ms"))
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        parts = [row.get("method"), row.get("select") if len(rules) > 1 else None]
        parts.append((row.get("search") or "greedy") if len(searches) > 1 else None)
        parts.append((f"{row['chunk_ms']} ms" if row.get("chunk_ms") else "whole") if len(chunks) > 1 else None)
        lines.setdefault(", ".join(str(part) for part in parts if part), []).append(row)
    return lines


def _cost(row: Mapping[str, Any], unit: float | None) -> float:
    return float(row["macs_per_second"]) / unit if unit else float(row["depth"])


def line_styles() -> Iterator[dict[str, Any]]:
    """Yield colour, marker and dash of one line after another. Dashes distinguish lines of the same colour."""
    for dash in itertools.cycle(("-", "--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)))):
        for colour, marker in _STYLES:
            yield {"color": colour, "marker": marker, "linestyle": dash}


def draw_line(
    axes: Any, x: Sequence[float], y: Sequence[float], low: Sequence[float], high: Sequence[float], **style: Any
) -> None:
    """Draw a line through points, with a band around it."""
    axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.plot(x, y, markersize=5.5, markeredgecolor="white", linewidth=1.8, **style)


def _draw_rows(
    axes: Any, rows: list[Mapping[str, Any]], unit: float | None, label: str, style: Mapping[str, Any]
) -> None:
    rows = sorted(rows, key=lambda row: _cost(row, unit))
    x = [_cost(row, unit) for row in rows]
    wer = [100 * row["wer"] for row in rows]
    low = [100 * _or(row.get("wer_low"), row["wer"]) for row in rows]
    high = [100 * _or(row.get("wer_high"), row["wer"]) for row in rows]
    draw_line(axes, x, wer, low, high, label=label, **style)


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _name_depths(axes: Any, rows: Sequence[Mapping[str, Any]], unit: float | None) -> None:
    """Write the depth under the lowest point of each horizontal position; lines of equal cost share one number."""
    lowest: dict[tuple[float, int], Mapping[str, Any]] = {}
    for row in sorted(rows, key=lambda row: float(row["wer"]), reverse=True):
        lowest[float(f"{_cost(row, unit):.4g}"), row["depth"]] = row
    for row in lowest.values():
        axes.annotate(
            str(row["depth"]),
            (_cost(row, unit), 100 * row["wer"]),
            xytext=(0, -7),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=8.5,
            color=_INK,
        )


def finish_axes(axes: Any, rates: Sequence[float], title: str, **names: str) -> None:
    """Set scales, grid, title and the names of both axes (`x`, `y`), for error rates in %.

    The vertical axis is logarithmic when the rates span more than a factor of ten.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if min(rates) > 0 and max(rates) > 10 * min(rates):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.margins(y=0.12)
    else:
        axes.set_ylim(bottom=0 if min(rates) > 0.05 * max(rates) else -0.06 * max(max(rates), 1.0))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(left=0)
    style_axes(axes, title, names["x"], names["y"])


def style_axes(axes: Any, title: str, x: str, y: str = "") -> None:
    """Set grid, colours, title and the names of both axes."""
    axes.set_xlabel(x, color=_INK)
    axes.set_ylabel(y, color=_INK)
    axes.set_title(title, loc="left", color=_INK, fontsize=12, fontweight="bold")
    axes.grid(True, axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)
    axes.tick_params(colors=_INK, which="both", color=_GREY, labelsize=9)


def add_legend(axes: Any, band: str) -> None:
    """Add the names of the lines, and the meaning of their bands.

    More than six names stand beside the picture, which grows with them, highest line first.
    """
    lines = axes.get_lines()
    shown: dict[str, Any] = {"frameon": False, "title": f"shaded: {band}", "title_fontsize": 8.5, "alignment": "left"}
    if len(lines) > _LINES_INSIDE:
        width, height = axes.figure.get_size_inches()
        axes.figure.set_size_inches(1.4 * width, max(height, _INCHES_A_NAME * (len(lines) + 2)))
        lines = sorted(lines, key=lambda line: -fmean(line.get_ydata()))
        shown |= {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    axes.legend(handles=lines, **shown)
