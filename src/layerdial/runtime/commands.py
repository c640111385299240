"""`layerdial transcribe` and `layerdial profile`, for the full command line and for that of the device."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from layerdial.errors import UserError
from layerdial.ladder import Ladder
from layerdial.recognizer import Recognizer
from layerdial.registry.find import model_folder
from layerdial.request import Request
from layerdial.runtime.manifest import Manifest
from layerdial.runtime.profile import pareto
from layerdial.runtime.profiling import profile_device
from layerdial.transcript import Transcript
from layerdial.utils.files import check_writable
from layerdial.utils.printing import printable_json


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


def with_search(
    request: Request, hotwords: Path | None, lm: Path | None, lm_weight: float | None, word_bonus: float | None
) -> Request:
    """Return a request with the phrases of a file of hotwords, and a language model."""
    if all(value is None for value in (hotwords, lm, lm_weight, word_bonus)):
        return request
    from layerdial.text.hotwords import read_hotwords

    phrases = None if hotwords is None else read_hotwords(hotwords)
    file = None if lm is None else str(lm)
    return replace(request, hotwords=phrases, lm=file, lm_weight=lm_weight, word_bonus=word_bonus)


def profile_folder(out: Path, threads: Sequence[int], budget_s: float) -> None:
    """Measure, print the depths worth running, and keep the profile beside the model."""
    if not (math.isfinite(budget_s) and budget_s >= 1):
        raise UserError(f"--budget is {budget_s:g}; give seconds, 1 or more")
    out = model_folder(out)
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
    """Return the text, or a line for each word or segment with its seconds, where there are any."""
    timed = [f"[{segment.start:.2f} --> {segment.end:.2f}] {segment.text}" for segment in result.segments]
    words = [f"[{word.start:.2f} --> {word.end:.2f}] {word.text}" for word in result.words]
    return words or timed or [result.text]


def _row(path: Path, result: Transcript) -> dict[str, Any]:
    row: dict[str, Any] = {"file": str(path), "text": result.text, "depth": result.depth}
    seconds = {"audio_seconds": round(result.seconds, 3), "seconds_taken": round(result.rtf * result.seconds, 4)}
    old = {"seconds": round(result.seconds, 3), "rtf": round(result.rtf, 5)}  # `seconds` goes with the next version
    row |= {"subset": result.subset.key, **seconds, **old}
    if result.reason:
        row["reason"] = result.reason
    if result.cut:
        row["cut"] = True
    if result.segments:
        row["segments"] = [
            {"start": round(segment.start, 3), "end": round(segment.end, 3), "text": segment.text}
            for segment in result.segments
        ]
    if result.words:
        row["words"] = [
            {
                "word": word.text,
                "start": round(word.start, 3),
                "end": round(word.end, 3),
                "confidence": round(word.confidence, 3),
            }
            for word in result.words
        ]
    if len({chunk.subset for chunk in result.chunks}) > 1:
        row["chunks"] = [
            {"start": round(chunk.start, 3), "end": round(chunk.end, 3), "depth": chunk.depth, "reason": chunk.reason}
            for chunk in result.chunks
        ]
    return row
