"""What both command lines have of `layerdial transcribe --stream`. Imports nothing heavy: --help."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from layerdial.errors import UserError

if TYPE_CHECKING:
    from layerdial.recognition.streaming import StreamingRecognizer
    from layerdial.request import Request
    from layerdial.runtime.outputs import Job, Output

HELP = {
    "stream": "Print the text as it comes, chunk by chunk (streaming models).",
    "chunk_ms": "Streaming models: the milliseconds of a chunk, a multiple of 40; 320 if left out.",
    "pause": "With --stream: the seconds of silence that end a text; 0.6 if left out.",
}


@dataclass(frozen=True)
class StreamFlags:
    """The options of a stream, as they were given."""

    stream: bool
    chunk_ms: int | None
    pause: float | None

    def asked(self, others: Mapping[str, object]) -> bool:
        """Return whether recordings are streamed. Raises `UserError` for options that are not of one kind.

        `others` are the options for whole recordings alone, with what was given for them.
        """
        if not self.stream:
            for flag, value in (("--chunk-ms", self.chunk_ms), ("--pause", self.pause)):
                if value is not None:
                    raise UserError(f"{flag} is for --stream; give that too")
            return False
        for name in (name for name, value in others.items() if value):
            raise UserError(f"--{name.replace('_', '-')} is for whole recordings; leave it out, or --stream")
        return True


def run_stream(
    load: Callable[[], StreamingRecognizer], jobs: Sequence[Job], request: Request, output: Output, flags: StreamFlags
) -> int:
    """Print the texts of recordings as they come; `load` is called after a check of all else. Return the exit code."""
    from layerdial.runtime.stream_rows import StreamOptions
    from layerdial.runtime.streamed_files import check_streamed, stream_files

    check_streamed(output)
    options = StreamOptions(flags.chunk_ms, flags.pause)
    return stream_files(load(), jobs, request, output, options)
