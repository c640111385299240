"""The picture of WER against time: an exported Whisper at every depth, and faster-whisper beside it.

    python benchmarks/whisper_picture.py OUT.png --device OUT/device.json --exported int8=SWEEP.jsonl \\
        --peers experiments/results/whisper-peers/peers.jsonl --cuts dev [--seconds 10]

Times are of `benchmarks/whisper_device.py`. WER on the cuts of that name is of `layerdial sweep` and of
`benchmarks/whisper_peers.py`. Or both are of the latter:

    python benchmarks/whisper_picture.py OUT.png --times OUT/times.jsonl --peers OUT/peers.jsonl --cuts test
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

from layerdial.evaluation.plots import add_legend, draw_line, finish_axes, line_styles, new_figure, save_figure
from layerdial.utils.files import read_json
from layerdial.utils.rows import Row, read_rows

DEPTH, WHOLE = re.compile(r"(.+) (\d+) blocks"), re.compile(r"(.+)()")
Point = tuple[str, float, Row]  # what is written beside it, milliseconds, the row with its WER


def main() -> None:
    options = parse()
    if options.times:
        unit = "ms for a second of speech"
        lines = of_times(read_rows(options.times), peers(options.peers, options.cuts))
    else:
        unit, lines = f"ms for {options.seconds} s of speech", of_device(options)
    draw(lines, options, f"{unit}, one thread (numbers at the points: encoder blocks that run)")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", type=Path)
    parser.add_argument("--exported", nargs="+", default=[], metavar="NAME=SWEEP")
    parser.add_argument("--times", type=Path)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--cuts", required=True)
    parser.add_argument("--seconds", default="10")
    parser.add_argument("--title", default="")
    options = parser.parse_args()
    if (options.device is None) == (options.times is None):
        parser.error("give either --device or --times")
    return options


def of_device(options: argparse.Namespace) -> dict[str, list[Point]]:
    """Return a line for each export, and a point for each peer that `whisper_device.py` measured."""
    times = read_json(options.device)["request_ms"][options.seconds]
    found = peers(options.peers, options.cuts)
    lines = {f"layerdial, {name}": dial(times, name, Path(file)) for name, file in named(options.exported)}
    return lines | {name: [("", times[name], row)] for name, row in found.items() if name in times}


def of_times(times: list[Row], found: Mapping[str, Row]) -> dict[str, list[Point]]:
    """Return a line for each peer, through its depths where it is called "NAME N blocks"."""
    lines: dict[str, list[Point]] = {}
    for row in times:
        name, depth = (DEPTH.fullmatch(row["peer"]) or WHOLE.fullmatch(row["peer"])).groups("")  # type: ignore[union-attr]
        if row["peer"] in found:
            lines.setdefault(name, []).append((depth, 1000 * row["rtf"], found[row["peer"]]))
    return {name: sorted(points, key=lambda point: point[0]) for name, points in lines.items()}


def named(pairs: list[str]) -> list[tuple[str, str]]:
    return [(name, file) for name, _, file in (pair.partition("=") for pair in pairs)]


def dial(times: Mapping[str, float], name: str, file: Path) -> list[Point]:
    """Return the points of one export, shallowest first."""
    rows = sorted(read_rows(file), key=lambda row: row["depth"])
    return [(str(row["depth"]), times[f"{name} {row['depth']}"], row) for row in rows]


def peers(file: Path, cuts: str) -> dict[str, Row]:
    """Return the rows of what others reach on these cuts, without the fallback, by name."""
    chosen = [row for row in read_rows(file) if row["cuts"] == cuts and row["normalizer"] == "basic"]
    return {row["peer"]: row for row in chosen if not row["fallback"]}


def draw(lines: Mapping[str, list[Point]], options: argparse.Namespace, x_name: str) -> None:
    figure, axes = new_figure()
    for (name, points), style in zip(lines.items(), line_styles(), strict=False):
        x = [ms for _, ms, _ in points]
        wer, low, high = ([100 * row[key] for _, _, row in points] for key in ("wer", "wer_low", "wer_high"))
        draw_line(axes, x, wer, low, high, label=name, **style)
        if len(points) == 1:
            axes.vlines(x, low, high, color=style["color"], linewidth=1.4, alpha=0.6)
        for label, ms, row in points:
            place = {"xytext": (0, -8), "textcoords": "offset points", "ha": "center", "va": "top", "fontsize": 8.5}
            axes.annotate(label, (ms, 100 * row["wer"]), **place)
    rates = [100 * row["wer"] for points in lines.values() for _, _, row in points]
    finish_axes(axes, rates, options.title, x=x_name, y="word error rate, %")
    add_legend(axes, "95 % interval")
    save_figure(figure, options.out)


if __name__ == "__main__":
    main()
