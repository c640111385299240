"""The results of a stream as command lines write them: transcripts, JSON objects, a line that is rewritten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from layerdial.errors import UserError
from layerdial.recognition.chunk_model import CHUNK_MS
from layerdial.recognition.endpointing import DEFAULT_ENDPOINTS, Endpoints
from layerdial.recognition.stream_results import StreamResult
from layerdial.request import Request
from layerdial.runtime.commands import row_of
from layerdial.transcript import Transcribed, Transcript
from layerdial.utils.printing import one_line
from layerdial.utils.rewritten import RewrittenLine

SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0


@dataclass(frozen=True)
class StreamOptions:
    """How a command line streams: the size of chunks, and the seconds of silence that end a text."""

    chunk_ms: int | None = None
    pause: float | None = None

    def __post_init__(self) -> None:
        check_pause(self.pause)

    @property
    def chunks(self) -> int:
        return CHUNK_MS if self.chunk_ms is None else self.chunk_ms

    @property
    def endpoints(self) -> Endpoints:
        return DEFAULT_ENDPOINTS if self.pause is None else Endpoints(silence=self.pause)


def check_pause(pause: float | None) -> None:
    """Raise `UserError` for a pause that ends no text, or nearly all."""
    if pause is not None and not SHORTEST_PAUSE <= pause <= LONGEST_PAUSE:
        raise UserError(f"--pause is {pause:g}; give {SHORTEST_PAUSE:g} to {LONGEST_PAUSE:g} seconds")


def transcript_of(result: StreamResult, taken: float, request: Request) -> Transcript:
    """Return a final result that took so many seconds as a transcript, with words where they were asked for."""
    words = result.words if request.words else ()
    seconds = max(result.end - result.start, 1e-3)
    made = Transcribed(result.text, result.chunks, seconds, result.segments, words)
    return Transcript.of(made, taken, result.chunks[0].subset)


def final_row(result: StreamResult, transcript: Transcript) -> dict[str, Any]:
    """Return a final result as a JSON object."""
    return {"final": True, **_times(result), **row_of(transcript)}


def partial_row(result: StreamResult) -> dict[str, Any]:
    """Return a partial result as a JSON object."""
    texts = {"text": result.text, "stable": result.stable, "depth": result.chunks[-1].depth}
    return {"final": False, **_times(result), **texts}


def _times(result: StreamResult) -> dict[str, float]:
    return {"start": round(result.start, 3), "end": round(result.end, 3)}


def show(line: RewrittenLine, result: StreamResult, before: str = "") -> None:
    """Show a partial result in a terminal."""
    line.show(one_line(before + result.stable), one_line(result.text[len(result.stable) :]))
