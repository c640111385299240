"""The table and the picture of what edge.py measured."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from layerdial.utils.files import read_json


def report(options: argparse.Namespace) -> None:
    """Print the table as Markdown and draw `OUT/edge.png`."""
    parts = {name: read_part(options.out, name) for name in ("speed", "wer", "memory", "whisper")}
    print(table(parts))
    draw(parts, options.out / "edge.png")
    print(f"\npicture: {options.out / 'edge.png'}")


def read_part(out: Path, name: str) -> Any:
    file = out / f"{name}.json"
    return read_json(file) if file.is_file() else None


def errors_at(parts: dict[str, Any], name: str, depth: int) -> tuple[int, int]:
    """Errors and words over all test sets."""
    rows = [row for row in parts["wer"]["rows"] if row["depth"] == depth]
    return sum(row[name] for row in rows), sum(row["words"] for row in rows)


def table(parts: dict[str, Any]) -> str:
    """One line a depth; times are shares of torch's at full depth. Whisper is the last line, where it was run."""
    n_blocks = parts["speed"]["n_blocks"]
    heads = [
        "depth",
        "WER float",
        "WER int8",
        "time float",
        "int8",
        "RTF float",
        "int8",
        "torch",
        "sherpa-onnx float",
        "int8",
    ]
    heads += ["peak memory float", "int8"] * bool(parts["memory"])
    lines = [heads, ["---"] * len(heads), *(row_of(parts, depth) for depth in range(1, n_blocks + 1))]
    if parts["whisper"] and parts["memory"]:
        lines.append(whisper_row(parts))
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    if not parts["memory"]:
        return text
    sizes = ", ".join(f"{name} {found['megabytes']:.1f} MB" for name, found in parts["memory"].items())
    return f"{text}\n\nFiles: {sizes}."


def row_of(parts: dict[str, Any], depth: int) -> list[str]:
    requests, both = parts["speed"]["requests"], ("float32", "int8")
    whole = requests[f"torch {parts['speed']['n_blocks']}"]
    found = [errors_at(parts, name, depth) for name in both]
    cells = [str(depth), *(f"{100 * errors / words:.1f} ({errors})" for errors, words in found)]
    cells += [f"{requests[f'{name} {depth}'] / whole:.2f}" for name in both]
    cells += [f"{requests[f'{name} {depth}'] / 1000 / parts['speed']['seconds']:.4f}" for name in both]
    there = [requests.get(f"{name} {depth}") for name in ("torch", "sherpa-float32", "sherpa-int8")]
    cells += [f"{ms / whole:.2f}" if ms else "" for ms in there]
    if parts["memory"]:
        cells += [f"{parts['memory'][name]['peak_rss_mb'][depth - 1]:.0f} MB" for name in both]
    return cells


def whisper_row(parts: dict[str, Any]) -> list[str]:
    """Errors and memory are those with int8."""
    found, speed = parts["whisper"], parts["speed"]
    whole = speed["requests"][f"torch {speed['n_blocks']}"]
    times = [found["float32_request_ms"], found["int8_request_ms"]]
    cells = ["faster-whisper tiny.en", "", f"{100 * found['errors'] / found['words']:.1f} ({found['errors']})"]
    cells += [f"{ms / whole:.1f}" for ms in times] + [f"{ms / 1000 / speed['seconds']:.3f}" for ms in times]
    return [*cells, "", "", "", "", f"{found['peak_rss_mb']:.0f} MB"]


def draw(parts: dict[str, Any], file: Path) -> None:
    """WER against time relative to torch at full depth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    speed = parts["speed"]
    n_blocks, requests = speed["n_blocks"], speed["requests"]
    whole = requests[f"torch {n_blocks}"]
    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    lines = {
        "layerdial, float": "float32",
        "layerdial, int8": "int8",
        "sherpa-onnx, float, a file a depth": "sherpa-float32",
        "sherpa-onnx, int8, a file a depth": "sherpa-int8",
        "torch": "torch",
    }
    styles = ["o-", "s-", "o:", "s:", "^--"]
    for (label, name), style in zip(lines.items(), styles, strict=True):
        depths = [depth for depth in range(1, n_blocks + 1) if f"{name} {depth}" in requests]
        rates = [errors_at(parts, name, depth) for depth in depths]
        times = [requests[f"{name} {depth}"] / whole for depth in depths]
        axes.plot(times, [100 * errors / words for errors, words in rates], style, label=label, markersize=5)
        if name == "float32":
            for depth, time, (errors, words) in zip(depths, times, rates, strict=True):
                axes.annotate(str(depth), (time, 100 * errors / words), textcoords="offset points", xytext=(4, 5))
    axes.set_xlabel("time of a request of 10 s, features included (torch with all blocks = 1)")
    axes.set_ylabel("WER, %")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=130)
