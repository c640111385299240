"""The options that make a `Request`, the same for each command that has them, in both command lines."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
