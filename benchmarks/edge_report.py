"""The table and the picture of what edge.py measured."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from layerdial.files import read_json


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
    """One line a depth; times as shares of torch's at full depth."""
    speed, memory = parts["speed"], parts["memory"]
    n_blocks, requests = speed["n_blocks"], speed["requests"]
    whole = requests[f"torch {n_blocks}"]
    lines = [
        "| depth | WER float | WER int8 | time float | time int8 | RTF float | RTF int8 | sherpa-onnx float | int8 "
        "| memory float | int8 |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for depth in range(1, n_blocks + 1):
        cells = [str(depth)]
        for name in ("float32", "int8"):
            errors, words = errors_at(parts, name, depth)
            cells.append(f"{100 * errors / words:.1f} % ({errors}/{words})")
        cells += [f"{requests[f'{name} {depth}'] / whole:.2f}" for name in ("float32", "int8")]
        cells += [f"{requests[f'{name} {depth}'] / 1000 / speed['seconds']:.4f}" for name in ("float32", "int8")]
        for name in ("float32", "int8"):
            there = requests.get(f"sherpa-{name} {depth}")
            cells.append(f"{there / whole:.2f}" if there else "")
        cells += [f"{memory[name]['peak_rss_mb'][depth - 1]:.0f} MB" for name in ("float32", "int8")]
        lines.append("| " + " | ".join(cells) + " |")
    sizes = ", ".join(f"{name} {memory[name]['megabytes']:.1f} MB" for name in memory)
    lines += ["", f"Files: {sizes}. torch at full depth is 1.00."]
    if parts["whisper"]:
        found = parts["whisper"]
        lines.append(
            f"faster-whisper tiny.en: {100 * found['errors'] / found['words']:.1f} % "
            f"({found['errors']}/{found['words']}), time int8 {found['int8_request_ms'] / whole:.1f}, float32 "
            f"{found['float32_request_ms'] / whole:.1f}, {found['megabytes']:.0f} MB, "
            f"{found['peak_rss_mb']:.0f} MB memory."
        )
    return "\n".join(lines)


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
