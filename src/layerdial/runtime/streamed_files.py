"""`layerdial transcribe --stream`, for the full command line and for that of the device."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence

from layerdial.audio.channels import AudioPath, Channel
from layerdial.audio.files import AudioProblem
from layerdial.audio.live import parts_of_file
from layerdial.errors import UserError
from layerdial.recognition.stream_results import StreamResult
from layerdial.recognition.streaming import Stream, StreamingRecognizer
from layerdial.request import Request
from layerdial.runtime.commands import lines_of
from layerdial.runtime.outputs import Job, Output
from layerdial.runtime.stream_rows import StreamOptions, final_row, partial_row, show, transcript_of
from layerdial.utils.printing import one_line, printable_json
from layerdial.utils.rewritten import RewrittenLine


def stream_files(
    load: Callable[[], StreamingRecognizer],
    jobs: Sequence[Job],
    request: Request,
    output: Output,
    chunk_ms: int | None = None,
    pause: float | None = None,
) -> int:
    """Print the texts of recordings as they come. Return 2 if one could not be read to its end, else 0.

    In a terminal a line shows the text so far; with JSON each partial result is an object. Raises `UserError` for a
    model that takes whole utterances, and for what a stream cannot do. The model is loaded after a check of all else.
    """
    if output.format not in ("text", "json"):
        raise UserError(f"--format {output.format} is written of whole recordings; leave it out, or --stream")
    if output.channel == "each":
        raise UserError("--stream takes one channel; give its number to --channel")
    options = StreamOptions(chunk_ms, pause)
    stream = load().stream(request, chunk_ms=options.chunks, endpoints=options.endpoints)
    failed = False
    for job in jobs:
        audio = job.audio if output.channel is None else Channel(job.audio, _channel(output.channel))
        line = RewrittenLine(sys.stdout)
        try:
            _stream(stream, audio, request, output, line, len(jobs) > 1)
        except AudioProblem as error:
            failed = True
            line.clear()
            print(f"layerdial: {one_line(str(error))}", file=sys.stderr)
        finally:
            line.clear()
            stream.reset()
    return 2 if failed else 0


def _channel(name: str) -> int | str:
    return int(name) if name.isdigit() else name


def _stream(
    stream: Stream, audio: AudioPath, request: Request, output: Output, line: RewrittenLine, several: bool
) -> None:
    """Print the results of one recording."""
    name = one_line(f"{audio}: ") if several and output.format == "text" else ""
    begun, said = time.perf_counter(), set[str]()
    for result in _results(stream, audio):
        if not result.final:
            if output.format == "json":
                print(printable_json({"file": str(audio), **partial_row(result)}), flush=True)
            else:
                show(line, result, name)
            continue
        now = time.perf_counter()
        transcript, begun = transcript_of(result, now - begun, request), now
        line.clear()
        if output.format == "json":
            print(printable_json({"file": str(audio), **final_row(result, transcript)}), flush=True)
            continue
        for text in lines_of(transcript):
            print(f"{name}{text}", flush=True)
        said |= {chunk.reason for chunk in result.chunks if chunk.reason.startswith("shallowest")}
    for reason in sorted(said)[:1]:  # not among the texts, which scripts read
        print(f"layerdial: {one_line(str(audio))}: {reason}", file=sys.stderr)


def _results(stream: Stream, audio: AudioPath) -> Iterator[StreamResult]:
    """Yield the results of a recording. Raises what ends it early, also Ctrl-C, behind those of what came before."""
    problem: AudioProblem | KeyboardInterrupt | None = None
    try:
        for samples, rate in parts_of_file(audio):
            yield from stream.accept(samples, rate)
    except (AudioProblem, KeyboardInterrupt) as error:
        problem = error
    yield from stream.finish()
    if problem is not None:
        raise problem
