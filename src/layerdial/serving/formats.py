"""An answer in the forms of OpenAI's transcriptions: json, text, srt, vtt, verbose_json, and server-sent events."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from layerdial.runtime.speakers import Said, cues_of
from layerdial.serving.jobs import Served
from layerdial.text.subtitles import Piece, pieces_of_words, srt, vtt
from layerdial.transcript import Segment, Transcript, Word

CONTENT_TYPES = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}
_PAUSE = 1.0  # seconds that end a segment
_LONGEST = 30.0  # seconds of a segment
_STOPS = (".", "?", "!", "\u2026", "\u3002", "\uff1f", "\uff01")


def depth_headers(served: Served) -> dict[str, str]:
    """Return the headers that say which depth an answer has, and why."""
    return {"X-Layerdial-Depth": str(served.depth), "X-Layerdial-Reason": _of_header(served.reason)}


def of_depth(answers: Sequence[Served]) -> dict[str, Any]:
    """Return what an answer's JSON says of its depth; that of several pieces is the deepest, as in a transcript."""
    deepest = max(answers, key=lambda served: served.depth)
    chunks = [chunk for served in answers for chunk in served.transcript.chunks]
    found: dict[str, Any] = {"depth": deepest.depth, "n_blocks": deepest.transcript.subset.n_blocks}
    found |= {"reason": deepest.reason, "depths": [chunk.depth for chunk in chunks]}
    found |= {"waited_ms": round(answers[0].waited_ms, 1), "took_ms": round(sum(one.took_ms for one in answers), 1)}
    found |= {"deadline_ms": round(deepest.deadline_ms, 1), "late": any(served.late for served in answers)}
    found |= {"cut": True} if any(served.transcript.cut for served in answers) else {}
    other = next(filter(None, (served.transcript.other_language for served in answers)), "")
    return found | ({"other_language": other} if other else {})


def written(served: Served, response_format: str, granularities: frozenset[str], language: str) -> str:
    """Return the body of an answer."""
    transcript = served.transcript
    if response_format == "text":
        return f"{transcript.text}\n"
    if response_format in ("srt", "vtt"):
        return {"srt": srt, "vtt": vtt}[response_format](cues_of([Said("", transcript)]))
    body: dict[str, Any] = {"text": transcript.text}
    if response_format == "verbose_json":
        body = _verbose(transcript, granularities, language)
    body |= {"usage": _usage(transcript.seconds), "layerdial": of_depth([served])}
    return json.dumps(body, ensure_ascii=False)


def delta_event(text: str) -> str:
    """Return the event of more text."""
    return _event({"type": "transcript.text.delta", "delta": text})


def done_event(text: str, answers: Sequence[Served]) -> str:
    """Return the event that ends a stream, with the whole text."""
    usage = _usage(sum(served.transcript.seconds for served in answers))
    return _event({"type": "transcript.text.done", "text": text, "usage": usage, "layerdial": of_depth(answers)})


def error_event(body: dict[str, Any]) -> str:
    """Return the event of an error after the answer has begun."""
    return _event({"type": "error", **body})


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def _usage(seconds: float) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(seconds, 3)}


def _of_header(text: str) -> str:
    """Return a text as a header can have it."""
    return "".join(letter if letter.isprintable() and letter.isascii() else "?" for letter in text)


# ----------------------------------------------------------------------------------------------------- verbose_json


def _verbose(transcript: Transcript, granularities: frozenset[str], language: str) -> dict[str, Any]:
    body: dict[str, Any] = {"task": "transcribe", "language": language, "duration": round(transcript.seconds, 3)}
    body["text"] = transcript.text
    if "segment" in granularities:
        body["segments"] = [_segment(i, *found, transcript) for i, found in enumerate(segments_of(transcript))]
    if "word" in granularities:
        body["words"] = [
            {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3)} for word in transcript.words
        ]
    return body


def _segment(number: int, segment: Segment, words: Sequence[Word], transcript: Transcript) -> dict[str, Any]:
    """Return a segment with all fields that clients expect; what is not known is null, and tokens are not given."""
    seek = max((chunk.start for chunk in transcript.chunks if chunk.start <= segment.start), default=0.0)
    times: dict[str, Any] = {"id": number, "seek": round(100 * seek)}
    times |= {"start": round(segment.start, 3), "end": round(segment.end, 3), "text": segment.text}
    times |= {"tokens": [], "temperature": 0.0, "avg_logprob": _mean_logp(words)}
    return times | {"compression_ratio": _compression(segment.text), "no_speech_prob": None}


def segments_of(transcript: Transcript) -> list[tuple[Segment, Sequence[Word]]]:
    """Return the segments of a transcript and their words: the model's, or sentences of its words."""
    if transcript.segments or not transcript.words:
        return [(segment, ()) for segment in transcript.segments]
    pieces = pieces_of_words(transcript.text, transcript.words)
    words = [word for word in transcript.words if word.text.strip()]
    bounds = [0, *_ends(pieces), len(pieces)]
    found: list[tuple[Segment, Sequence[Word]]] = []
    for begin, end in pairwise(bounds):
        if begin < end:
            text = "".join(" " * piece.spaced + piece.text for piece in pieces[begin:end]).strip()
            found.append((Segment(pieces[begin].start, pieces[end - 1].end, text), words[begin:end]))
    return found


def _ends(pieces: Sequence[Piece]) -> Iterator[int]:
    """Yield where segments end before the last: behind sentences, at pauses, and before they are too long."""
    begin = 0
    for i in range(1, len(pieces)):
        before, after = pieces[i - 1], pieces[i]
        long = after.end - pieces[begin].start > _LONGEST
        if long or before.text.endswith(_STOPS) or after.start - before.end > _PAUSE:
            begin = i
            yield i


def _mean_logp(words: Sequence[Word]) -> float | None:
    """Return the mean log of the words' confidences; None where words are not known."""
    if not words:
        return None
    return round(sum(math.log(max(word.confidence, 1e-6)) for word in words) / len(words), 4)


def _compression(text: str) -> float:
    """Return how many times smaller a text gets, as openai-whisper counts it: texts that repeat themselves get so."""
    content = text.encode()
    return round(len(content) / len(zlib.compress(content)), 3) if content else 0.0
