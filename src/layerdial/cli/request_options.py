"""The options that make a `Request`, and those of streams, the same for each command, in both command lines."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerdial.errors import UserError
from layerdial.request import Request


@dataclass(frozen=True)
class RequestOption:
    """An option for the field `name` of a request, of a type (bool: a switch), and which models alone have it."""

    name: str
    kind: type
    models: str = ""

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def help(self) -> str:
        text = Request.help(self.name)
        return f"{self.models}: {text}." if self.models else f"{text[0].upper()}{text[1:]}."


OPTIONS = (
    RequestOption("depth", int),
    *(RequestOption(name, float, "Exported models") for name in ("deadline_ms", "target_rtf", "max_cpu", "confidence")),
    RequestOption("first_depth", int),
    RequestOption("language", str, "Whisper"),
    RequestOption("task", str, "Whisper"),
    RequestOption("beams", int),
    RequestOption("decoder_depth", int, "Whisper"),
    RequestOption("timestamps", bool),
    RequestOption("words", bool),
    RequestOption("hotwords", Path),
    RequestOption("lm", Path),
    RequestOption("lm_weight", float),
    RequestOption("word_bonus", float),
)
SEARCH_OPTIONS = tuple(
    option for option in OPTIONS if option.name in ("beams", "hotwords", "lm", "lm_weight", "word_bonus")
)


def add_request_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command of argparse."""
    for option in OPTIONS:
        kind: dict[str, Any] = {"action": "store_true"} if option.kind is bool else {"type": option.kind}
        parser.add_argument(option.flag, help=Request.help(option.name), **kind)


def request_of(given: Mapping[str, Any]) -> Request:
    """Return the request of what a command line gives for all options, or for those of the search.

    Raises `UserError` as `Request` does, and for a file of hotwords that is none.
    """
    fields = {option.name: given[option.name] for option in OPTIONS if option.name in given}
    hotwords, lm = fields.pop("hotwords"), fields.pop("lm")
    for option in OPTIONS:
        if option.kind is bool and option.name in fields:
            fields[option.name] = fields[option.name] or None
    if hotwords is not None:
        from layerdial.text.hotwords import read_hotwords

        fields["hotwords"] = read_hotwords(hotwords)
    return Request(**fields, lm=None if lm is None else str(lm))


STREAM_HELP = {
    "stream": "Print the text as it comes, chunk by chunk (streaming models).",
    "chunk_ms": "Streaming models: the milliseconds of a chunk, a multiple of 40; 320 if left out.",
    "pause": "With --stream: the seconds without a word that end a text; 0.6 if left out.",
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
