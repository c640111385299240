"""The transcript of a recording as one, or of each of its channels, with the times that a format needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from layerdial.audio.channels import AudioPath, Channel
from layerdial.audio.files import AudioProblem, channels_of
from layerdial.errors import UserError
from layerdial.recognizer import Recognizer
from layerdial.request import Request
from layerdial.runtime.outputs import TIMED, Output
from layerdial.transcript import Segment, Transcript, Word

if TYPE_CHECKING:
    from layerdial.text.subtitles import Cue


@dataclass(frozen=True)
class Said:
    """The transcript of one speaker; `speaker` is empty where the recording is one."""

    speaker: str
    transcript: Transcript


@dataclass(frozen=True)
class Turn:
    """A stretch of one speaker's."""

    speaker: str
    segment: Segment


class Listener:
    """Recognises recordings as an output needs them: mixed, one channel, or each by itself."""

    def __init__(self, recognizer: Recognizer, request: Request, output: Output) -> None:
        self._recognizer, self._channel, self._output = recognizer, output.channel, output
        self._requests = _with_times(request, output) if output.times else [request]

    def transcripts(self, path: Path) -> list[Said]:
        """Return the transcript of a file, or of each of its channels. Raises `UserError` as recognisers do."""
        if self._channel == "each":
            return [Said(name, self._answer(channel)) for name, channel in channels_of(path).items()]
        channel = int(self._channel) if self._channel and self._channel.isdigit() else self._channel
        return [Said("", self._answer(path if channel is None else Channel(path, channel)))]

    def _answer(self, audio: AudioPath) -> Transcript:
        """Return the answer to the first request that the model takes; it refuses the others once only."""
        while True:
            try:
                return self._recognizer.answer(audio, self._requests[0])
            except AudioProblem:
                raise
            except UserError as error:
                if len(self._requests) == 1:
                    raise _refusal(error, self._output) from None
                del self._requests[0]


def _with_times(request: Request, output: Output) -> list[Request]:
    """Return the request for times of words, and that for segments alone, for models without the former.

    Raises `UserError` for a constraint, which excludes times.
    """
    for name in request.constraints:
        raise UserError(f"{_needing_times(output)} needs times, which exclude {name}; give depth")
    return [replace(request, words=True), replace(request, timestamps=True)]


def _refusal(error: UserError, output: Output) -> UserError:
    return UserError(f"{_needing_times(output)} needs times: {error}") if output.times else error


def _needing_times(output: Output) -> str:
    return f"--format {output.format}" if output.format in TIMED else f"--channel {output.channel}"


def cues_of(said: Sequence[Said]) -> list[Cue]:
    """Return subtitles of all speakers by time: of their words, or of segments, in which words share the time."""
    from layerdial.text.subtitles import in_order

    return in_order(*(_cues(one.transcript, one.speaker) for one in said))


def _cues(transcript: Transcript, speaker: str = "") -> list[Cue]:
    from layerdial.text.subtitles import cues, pieces_of_segments, pieces_of_words

    if transcript.words:
        return cues(pieces_of_words(transcript.text, transcript.words), speaker)
    return cues(pieces_of_segments(transcript.segments), speaker)


def turns_of(said: Sequence[Said]) -> list[Turn]:
    """Return the segments of all speakers by time; where there are words alone, a segment is a subtitle."""
    found = [Turn(one.speaker, segment) for one in said for segment in _segments(one.transcript)]
    return sorted(found, key=lambda turn: (turn.segment.start, turn.segment.end))


def words_of(said: Sequence[Said]) -> list[tuple[str, Word]]:
    """Return the words of all speakers by time, each with its speaker."""
    found = [(one.speaker, word) for one in said for word in one.transcript.words]
    return sorted(found, key=lambda spoken: (spoken[1].start, spoken[1].end))


def _segments(transcript: Transcript) -> list[Segment]:
    if transcript.segments or not transcript.words:
        return list(transcript.segments)
    return [Segment(cue.start_ms / 1000, cue.end_ms / 1000, " ".join(cue.lines)) for cue in _cues(transcript)]
