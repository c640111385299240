"""`layerdial listen`, for the full command line and for that of the device."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from layerdial.audio.live import PlayedFile, Sound
from layerdial.audio.utterances import Pauses
from layerdial.errors import UserError
from layerdial.recognition.stream_results import StreamResult
from layerdial.recognition.streaming import StreamingRecognizer
from layerdial.request import Request
from layerdial.runtime.commands import language_note, lines_of, row_of
from layerdial.runtime.listening import Utterance, listen
from layerdial.runtime.live_streams import listen_in_chunks
from layerdial.runtime.stream_rows import StreamOptions, check_pause, partial_row, show
from layerdial.utils.files import json_text
from layerdial.utils.printing import one_line, printable_json
from layerdial.utils.rewritten import RewrittenLine

_BEHIND = 1.0  # seconds from which it is said that speech comes faster than it is recognised


@dataclass(frozen=True)
class Dictation:
    """How the text is written, and the seconds of silence that end an utterance.

    Each line has the depth and the delay, or is a JSON object. The file `out` gets the text alone, or the same objects.
    `chunk_ms` is for streaming models.
    """

    pause: float | None = None
    as_json: bool = False
    out: Path | None = None
    chunk_ms: int | None = None

    def __post_init__(self) -> None:
        check_pause(self.pause)

    @property
    def pauses(self) -> Pauses:
        silence = Pauses.silence if self.pause is None else self.pause
        return Pauses(silence=silence, after=min(Pauses.after, silence))


def open_sound(file: Path | None, microphone: str | None) -> Sound:
    """Return a file that is played, or a microphone. Raises `UserError` for one that cannot be used, and for both."""
    if file is not None and microphone is not None:
        raise UserError("give --from or --microphone, not both")
    if file is not None:
        if str(file) == "-":
            raise UserError("--from plays a file, not a pipe; for a pipe: layerdial transcribe -")
        return PlayedFile(file)
    from layerdial.audio.microphone import Microphone

    return Microphone(microphone)


def dictate(recognizer: StreamingRecognizer, sound: Sound, request: Request, dictation: Dictation) -> None:
    """Print what is said, line by line, until the sound ends, or Ctrl-C or SIGTERM ends it; a second one does at once.

    What was being said then is still written. Where the model takes speech in chunks, its text is shown while somebody
    speaks. Raises `UserError` as `listen` does.
    """
    recognizer.subset(request.depth)  # a depth that does not exist is reported before any work
    if dictation.chunk_ms is not None and not recognizer.takes_chunks:
        raise UserError(f"--chunk-ms is for streaming models; {recognizer.name} takes whole utterances")
    line = RewrittenLine(sys.stdout)

    def say(text: str) -> None:
        line.clear()
        _say(text)

    with ExitStack() as stack:
        out = None if dictation.out is None else stack.enter_context(_appending(dictation.out))
        stack.enter_context(_ended_by_signals(sound.stop))
        stack.callback(line.clear)
        backlog = _Backlog()
        for result, utterance in _results(recognizer, sound, request, dictation, say):
            if utterance is not None:
                line.clear()
                backlog.follow(utterance.behind)
                _write(utterance, result, dictation, out)
            elif result is not None and dictation.as_json:
                print(printable_json(partial_row(result)), flush=True)
            elif result is not None:
                show(line, result)


def _results(
    recognizer: StreamingRecognizer,
    sound: Sound,
    request: Request,
    dictation: Dictation,
    say: Callable[[str], None],
) -> Iterator[tuple[StreamResult | None, Utterance | None]]:
    """Yield what is said: of a streaming model each result, a final one with its utterance; else utterances alone."""
    if recognizer.takes_chunks:
        options = StreamOptions(dictation.chunk_ms, dictation.pause)
        yield from listen_in_chunks(recognizer, sound, request, options, say)
        return
    for utterance in listen(recognizer, sound, request, dictation.pauses, say):
        yield None, utterance


def _write(utterance: Utterance, result: StreamResult | None, dictation: Dictation, out: TextIO | None) -> None:
    transcript = utterance.transcript
    if dictation.as_json:
        times = {"start": utterance.start, "end": utterance.end, "delay_seconds": utterance.delay}
        times["behind_seconds"] = utterance.behind
        row: dict[str, Any] = {} if result is None else {"final": True}
        row |= {name: round(seconds, 3) for name, seconds in times.items()} | row_of(transcript)
        print(printable_json(row), flush=True)
        lines = [json_text(row)]
    else:
        lines = [line for line in lines_of(transcript) if line]
        for line in lines:
            print(f"depth {transcript.depth:2}  {utterance.delay:5.2f} s  {line}", flush=True)
        if transcript.cut:
            _say(f"at {utterance.start:.1f} s the text repeated itself and was cut")
        if note := language_note(transcript):
            _say(f"at {utterance.start:.1f} s: {note}")
    if out is not None:
        out.writelines(f"{line}\n" for line in lines)
        out.flush()


class _Backlog:
    """Says when the text falls behind the speech, again when that has doubled, and when it has caught up."""

    def __init__(self) -> None:
        self._said = 0.0

    def follow(self, behind: float) -> None:
        if behind > max(_BEHIND, 2 * self._said):
            _say(f"behind by {behind:.1f} s; nothing is lost. A smaller --depth, or --deadline-ms, is faster")
            self._said = behind
        elif self._said and behind < _BEHIND / 2:
            _say("caught up")
            self._said = 0.0


@contextmanager
def _appending(path: Path) -> Iterator[TextIO]:
    try:
        file = path.open("a", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; give another file to --out") from None
    with file:
        yield file


@contextmanager
def _ended_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at the first SIGINT or SIGTERM in this block; a second one is KeyboardInterrupt."""

    def end(number: int, frame: object) -> None:
        for name in before:
            signal.signal(name, signal.default_int_handler)
        stop()

    before = {name: signal.signal(name, end) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _say(text: str) -> None:
    print(f"layerdial: {one_line(text)}", file=sys.stderr, flush=True)
