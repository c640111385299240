"""`layerdial transcribe` and `layerdial profile`, for the full command line and for that of the device."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdial.errors import UserError
from layerdial.ladder import Ladder
from layerdial.recognizer import Recognizer
from layerdial.registry.find import model_folder
from layerdial.request import Request
from layerdial.runtime.manifest import Manifest
from layerdial.runtime.outputs import Job, Output
from layerdial.runtime.profile import pareto
from layerdial.runtime.profiling import profile_device
from layerdial.runtime.speakers import Listener, Said, cues_of, turns_of, words_of
from layerdial.text.spoken_language import UNKNOWN
from layerdial.transcript import Transcript
from layerdial.utils.files import check_writable, json_text, write_text
from layerdial.utils.printing import one_line, printable_json

if TYPE_CHECKING:
    from layerdial.utils.progress import Update


def transcribe_files(recognizer: Recognizer, jobs: Sequence[Job], request: Request, output: Output) -> int:
    """Print or write the transcript of each recording. Return 2 if one could not be made, else 0."""
    recognizer.subset(request.depth)  # a depth that does not exist is reported before any work
    listener = Listener(recognizer, request, output)
    ends = Counter[str]()
    said = set[str]()  # what the model refuses, it refuses for each file
    with _progress(len(jobs), output) as update:
        for number, job in enumerate(jobs, start=1):
            try:
                ends[_transcribe(listener, job, request, output, len(jobs) > 1)] += 1
            except UserError as error:
                ends["failed"] += 1
                if (line := one_line(str(error))) not in said:
                    said.add(line)
                    print(f"layerdial: {line}", file=sys.stderr)
            update(number)
    if output.folder is not None:
        print(f"written: {output.folder} ({', '.join(f'{count} {name}' for name, count in ends.items())})")
    return 2 if ends["failed"] else 0


def _transcribe(listener: Listener, job: Job, request: Request, output: Output, several: bool) -> str:
    """Transcribe one recording; return "written" or "there already"."""
    if output.skip_existing and job.target is not None and job.target.exists():
        return "there already"
    said = listener.transcripts(job.audio)
    if job.target is not None:
        write_text(job.target, _content(job.audio, said, request, output, in_file=True))
    elif several and output.format == "text":
        for line in _text_lines(said, request):
            print(f"{one_line(str(job.audio))}: {line}")
    else:
        print(_content(job.audio, said, request, output, in_file=False), end="")
    if output.format != "json":  # not among the texts, which scripts read
        for reason in dict.fromkeys(one.transcript.reason for one in said if one.transcript.reason):
            depth = f"depth {said[0].transcript.depth}, " if said[0].transcript.chunks else ""
            print(f"layerdial: {one_line(str(job.audio))}: {depth}{reason}", file=sys.stderr)
        for note in dict.fromkeys(filter(None, (language_note(one.transcript) for one in said))):
            print(f"layerdial: {one_line(str(job.audio))}: {note}", file=sys.stderr)
    return "written"


def _progress(count: int, output: Output) -> AbstractContextManager[Update]:
    """Return a bar over several recordings, where no texts go to the same terminal."""
    if count == 1 or (output.folder is None and (sys.stdout.isatty() or not sys.stderr.isatty())):
        return nullcontext(lambda done: None)
    from layerdial.utils.progress import progress

    return progress("transcribing", count)


def _content(path: Path, said: Sequence[Said], request: Request, output: Output, in_file: bool) -> str:
    """Return the transcript of a recording in a format."""
    if output.format == "text":
        return "".join(f"{line}\n" for line in _text_lines(said, request))
    if output.format == "json":
        row = _row(path, said[0].transcript) if output.channel != "each" else _row_of_each(path, said)
        return (json_text(row, indent=2) if in_file else printable_json(row)) + "\n"
    from layerdial.text.subtitles import srt, tsv, vtt

    return {"srt": srt, "vtt": vtt, "tsv": tsv}[output.format](cues_of(said))


def _text_lines(said: Sequence[Said], request: Request) -> list[str]:
    """Return the lines of a transcript, or by time those of all speakers, with their names."""
    if not said[0].speaker:
        return lines_of(said[0].transcript)
    if request.words and (words := words_of(said)):
        return [f"[{word.start:.2f} --> {word.end:.2f}] {speaker}: {word.text}" for speaker, word in words]
    return [
        (f"[{turn.segment.start:.2f} --> {turn.segment.end:.2f}] " if request.timestamps else "")
        + f"{turn.speaker}: {turn.segment.text}"
        for turn in turns_of(said)
    ]


def _row_of_each(path: Path, said: Sequence[Said]) -> dict[str, Any]:
    """Return the segments of all speakers by time, and the row of each speaker."""
    turns: list[dict[str, Any]] = [
        {
            "start": round(t.segment.start, 3),
            "end": round(t.segment.end, 3),
            "text": t.segment.text,
            "speaker": t.speaker,
        }
        for t in turns_of(said)
    ]
    rows = [{"speaker": one.speaker, **_row(path, one.transcript)} for one in said]
    return {"file": str(path), "text": " ".join(turn["text"] for turn in turns), "segments": turns, "channels": rows}


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


def lines_of(result: Transcript) -> list[str]:
    """Return the text, or a line for each word or segment with its seconds, where there are any."""
    timed = [f"[{segment.start:.2f} --> {segment.end:.2f}] {segment.text}" for segment in result.segments]
    words = [f"[{word.start:.2f} --> {word.end:.2f}] {word.text}" for word in result.words]
    return words or timed or [result.text]


def language_note(result: Transcript) -> str:
    """Return what is to be said of speech that sounds like another language than it was recognised as, or nothing."""
    language = result.other_language
    if language == UNKNOWN:
        return "the model is for English; this does not sound like it, or is hard to hear"
    return f"this sounds like another language, {language}; give --language {language}" if language else ""


def _row(path: Path, result: Transcript) -> dict[str, Any]:
    old = {"seconds": round(result.seconds, 3), "rtf": round(result.rtf, 5)}  # `seconds` goes with the next version
    return {"file": str(path), **row_of(result), **old}


def row_of(result: Transcript) -> dict[str, Any]:
    """Return a transcript as a JSON object."""
    row: dict[str, Any] = {"text": result.text, "depth": result.depth, "subset": result.subset.key}
    row |= {"audio_seconds": round(result.seconds, 3), "seconds_taken": round(result.rtf * result.seconds, 4)}
    if result.reason:
        row["reason"] = result.reason
    if result.cut:
        row["cut"] = True
    if result.other_language:
        row["other_language"] = result.other_language
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
