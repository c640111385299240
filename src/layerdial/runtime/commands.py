"""`layerdial transcribe` and `layerdial profile`, for the full command line and for that of the device.

The device's own command line uses argparse alone: typer would also need pydantic, rich and pygments.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from layerdial import __version__
from layerdial.errors import UserError, installing, needing
from layerdial.ladder import Ladder
from layerdial.recognizer import Recognizer, Transcript
from layerdial.request import Request
from layerdial.runtime.manifest import Manifest
from layerdial.runtime.profile import pareto
from layerdial.runtime.profiling import profile_device
from layerdial.runtime.recognizer import OnnxRecognizer
from layerdial.runtime.session import is_exported
from layerdial.utils.files import check_writable
from layerdial.utils.output import end_quietly
from layerdial.utils.printing import printable_json, show_every_name


def transcribe_files(recognizer: Recognizer, audio: Sequence[Path], request: Request, as_json: bool) -> int:
    """Print a line for each file, or a JSON object. Return 2 if a file could not be read, else 0."""
    recognizer.subset(request.depth)  # a depth that does not exist is reported before any work
    code = 0
    for path in audio:
        try:
            result = recognizer.answer(path, request)
        except UserError as error:
            code = 2
            print(f"layerdial: {error}", file=sys.stderr)
            continue
        if as_json:
            print(printable_json(_row(path, result)))
            continue
        for line in _lines(result):
            print((f"{path}: " if len(audio) > 1 else "") + line)
        if result.reason:  # not among the texts, which scripts read
            print(f"layerdial: {path}: depth {result.depth}, {result.reason}", file=sys.stderr)
    return code


def profile_folder(out: Path, threads: Sequence[int], budget_s: float) -> None:
    """Measure, print the depths worth running, and keep the profile beside the model."""
    if not (math.isfinite(budget_s) and budget_s >= 1):
        raise UserError(f"--budget is {budget_s:g}; give seconds, 1 or more")
    manifest = Manifest.load(out)
    check_writable(out)
    ladder = Ladder.beside(out, manifest.n_blocks)
    found = profile_device(out, threads, budget_s, note=lambda text: print(f"measuring: {text}", file=sys.stderr))
    for table in found.tables:
        memory = f"; peak memory for {max(table.seconds):g} s: {table.peak_rss_mb:.0f} MB" if table.peak_rss_mb else ""
        print(f"{table.threads} thread{'s' * (table.threads > 1)}, 10 s of audio{memory}")
        for row in pareto(table.costs(), ladder, manifest.n_blocks):
            wer = "" if row["wer"] is None else f"  dev WER {row['wer']:7.2%}"
            print(f"  depth {row['depth']:2}  {row['subset']}{wer}  {row['latency_ms']:8.1f} ms  RTF {row['rtf']:.4f}")
    print(f"profile: {found.save(out, ladder, manifest.n_blocks)}")
    print(f"next:    layerdial transcribe {out} AUDIO --deadline-ms 100")


def _lines(result: Transcript) -> list[str]:
    """Return the text, or a line for each segment with its seconds, where there are any."""
    timed = [f"[{segment.start:.2f} --> {segment.end:.2f}] {segment.text}" for segment in result.segments]
    return timed or [result.text]


def _row(path: Path, result: Transcript) -> dict[str, Any]:
    row: dict[str, Any] = {"file": str(path), "text": result.text, "depth": result.depth}
    seconds = {"audio_seconds": round(result.seconds, 3), "seconds_taken": round(result.rtf * result.seconds, 4)}
    old = {"seconds": round(result.seconds, 3), "rtf": round(result.rtf, 5)}  # `seconds` goes with the next version
    row |= {"subset": result.subset.key, **seconds, **old}
    if result.reason:
        row["reason"] = result.reason
    if result.segments:
        row["segments"] = [
            {"start": round(segment.start, 3), "end": round(segment.end, 3), "text": segment.text}
            for segment in result.segments
        ]
    if len({chunk.subset for chunk in result.chunks}) > 1:
        row["chunks"] = [
            {"start": round(chunk.start, 3), "end": round(chunk.end, 3), "depth": chunk.depth, "reason": chunk.reason}
            for chunk in result.chunks
        ]
    return row


def main() -> NoReturn:
    """Run the command line of a device, which has these two commands and exported models only."""
    show_every_name()
    logging.basicConfig(format="layerdial: %(message)s")
    logging.getLogger("layerdial").setLevel(logging.INFO)
    try:
        with needing("runtime", "exported models need"):
            code = _run(_parser().parse_args(_known(sys.argv[1:])))
        end_quietly(code)
    except BrokenPipeError:  # `layerdial … | head`
        end_quietly(0)
    except KeyboardInterrupt:
        print("layerdial: interrupted", file=sys.stderr)
        sys.exit(130)
    except UserError as error:
        print(f"layerdial: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def _known(words: Sequence[str]) -> Sequence[str]:
    """Return `words`. Raises `UserError` where they begin with a command that a device does not have."""
    if words and not words[0].startswith("-") and words[0] not in ("transcribe", "profile"):
        raise UserError(f"a device has transcribe and profile; for {words[0]}: {installing('train')}")
    return words


_REQUEST_TYPES = {  # the fields of a request that a command line can give
    "depth": int,
    "deadline_ms": float,
    "target_rtf": float,
    "max_cpu": float,
    "confidence": float,
    "first_depth": int,
    "language": str,
    "task": str,
    "beams": int,
    "decoder_depth": int,
}


def _run(options: argparse.Namespace) -> int:
    model = options.out if options.command == "profile" else options.model
    if (model / "config.json").is_file() and not is_exported(model):
        raise UserError(f"{model} is a torch model, a device runs exported ones; for torch: {installing('train')}")
    if options.command == "profile":
        profile_folder(options.out, options.threads or (), options.budget)
        return 0
    given = {name: vars(options)[name] for name in _REQUEST_TYPES}
    request = Request(**given, timestamps=options.timestamps or None)
    return transcribe_files(OnnxRecognizer(options.model, options.threads), options.audio, request, options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="layerdial",
        description=f"Exported models on this device. For the other commands: {installing('train')}.",
    )
    parser.add_argument("--version", action="version", version=f"layerdial {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    transcribe = commands.add_parser("transcribe", help="Print what is said in audio files of any rate and length.")
    transcribe.add_argument("model", type=Path, help="a folder that layerdial export wrote")
    transcribe.add_argument("audio", type=Path, nargs="+")
    for name, kind in _REQUEST_TYPES.items():
        transcribe.add_argument(f"--{name.replace('_', '-')}", type=kind, help=Request.help(name))
    transcribe.add_argument("--timestamps", action="store_true", help=Request.help("timestamps"))
    transcribe.add_argument("--json", action="store_true", help="one JSON object a file")
    transcribe.add_argument("--threads", type=int)
    profile = commands.add_parser("profile", help="Measure an exported model on this device.")
    profile.add_argument("out", type=Path, help="a folder that layerdial export wrote")
    profile.add_argument("--threads", type=int, action="append", help="may be repeated; one and all if left out")
    profile.add_argument("--budget", type=float, default=60.0, help="seconds to measure for, about")
    return parser
