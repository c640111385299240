"""The fields of a transcription request, checked: what cannot be done is refused, not ignored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from layerdial.errors import UserError
from layerdial.request import Request
from layerdial.serving.engine import Engine, Wish
from layerdial.serving.problems import Problem
from layerdial.text.hotwords import parse_hotwords

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
_TIMED = ("srt", "verbose_json", "vtt")
_REPEATED = ("timestamp_granularities", "include", "keywords")
_SINGLE = ("model", "language", "prompt", "response_format", "temperature", "chunking_strategy", "stream")
_OWN = ("depth", "min_depth", "deadline_ms", "hotwords")
_KNOWN = (*_SINGLE, *_REPEATED, *_OWN)
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class Asked:
    """A checked request: how to transcribe, and in which form to answer. `granularities` are of verbose_json."""

    wish: Wish
    response_format: str
    stream: bool
    granularities: frozenset[str]


def read_fields(fields: Mapping[str, list[str]], engine: Engine) -> Asked:
    """Return what the fields of a form ask for. Raises `Problem` for what is unknown, invalid or not possible."""
    found = _by_name(fields)
    engine.check_model(_one(found, "model", required=True))
    form = _one(found, "response_format") or "json"
    if form not in FORMATS:
        raise _invalid("response_format", form, f"give {', '.join(FORMATS)}")
    stream = _flag(found, "stream")
    if stream and form not in ("json", "text"):
        raise Problem(
            400, f"stream gives text alone, without {form}; give response_format json", "invalid_value", "stream"
        )
    _refuse_what_is_not_done(found)
    granularities = _granularities(found, form, engine)
    return Asked(_wish(found, form, engine), form, stream, granularities)


def _by_name(fields: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return the fields by their names, `x[]` under `x`. Raises `Problem` for unknown and for repeated ones."""
    found: dict[str, list[str]] = {}
    for key, values in fields.items():
        name = key.removesuffix("[]")
        if name not in _KNOWN or (key != name and name not in _REPEATED):
            raise Problem(
                400, f"there is no field {key[:80]!r}; there are {', '.join(_KNOWN)}", "unknown_parameter", key[:80]
            )
        found.setdefault(name, []).extend(values)
    for name, values in found.items():
        if len(values) > 1 and name not in _REPEATED:
            raise Problem(400, f"{name} is given {len(values)} times; give it once", "invalid_value", name)
    return found


def _wish(found: Mapping[str, list[str]], form: str, engine: Engine) -> Wish:
    request = engine.with_language(Request(), _one(found, "language"))
    if form in _TIMED:
        if engine.timed is None:
            raise Problem(
                400,
                f"response_format {form} needs times, which {engine.names[0]} does not give; give json or text",
                "unsupported_value",
                "response_format",
            )
        request = replace(request, words=engine.timed.words, timestamps=engine.timed.timestamps)
    request = replace(request, hotwords=_hotwords(found))
    return Wish(
        request,
        _number(found, "depth", int),
        _number(found, "min_depth", int),
        _number(found, "deadline_ms", float),
    )


def _granularities(found: Mapping[str, list[str]], form: str, engine: Engine) -> frozenset[str]:
    given = frozenset(found.get("timestamp_granularities", ()))
    for name in sorted(given - {"word", "segment"}):
        raise _invalid("timestamp_granularities", name, "give word or segment")
    if given and form != "verbose_json":
        raise Problem(
            400,
            f"timestamp_granularities are of response_format verbose_json, this is {form}",
            "invalid_value",
            "timestamp_granularities",
        )
    if "word" in given and engine.timed is not None and not engine.timed.words:
        raise _unsupported("timestamp_granularities", f"{engine.names[0]} gives no times of words; give segment")
    return given or frozenset({"segment"})


def _refuse_what_is_not_done(found: Mapping[str, list[str]]) -> None:
    """Raise `Problem` for what OpenAI's service does and this one does not."""
    temperature = _number(found, "temperature", float)
    if temperature:
        raise _unsupported(
            "temperature", f"temperature is {temperature:g}; texts are not sampled here, so give 0 or none"
        )
    if _one(found, "prompt"):
        raise _unsupported("prompt", "prompts are not taken here; for names and terms give hotwords")
    for name in found.get("include", ()):
        raise _unsupported("include", f"include has {name[:80]!r}; log-probabilities of tokens are not given here")
    strategy = _one(found, "chunking_strategy")
    if strategy not in (None, "", "auto"):
        raise _unsupported("chunking_strategy", "audio is cut at pauses as the model needs it; give auto or nothing")


def _hotwords(found: Mapping[str, list[str]]) -> dict[str, float] | None:
    """Return the phrases of `hotwords`, one a line or between commas, and of OpenAI's `keywords`."""
    lines = [part for part in _one(found, "hotwords").replace(",", "\n").splitlines() if part.strip()]
    lines += found.get("keywords", ())
    try:
        return parse_hotwords(line.strip() for line in lines) if lines else None
    except UserError as error:
        raise Problem(400, f"hotwords: {error}", "invalid_value", "hotwords") from None


def _one(found: Mapping[str, list[str]], name: str, required: bool = False) -> str:
    """Return the value of a field that is not repeated, empty where it is left out."""
    value = found.get(name, [""])[0]
    if required and not value:
        raise Problem(400, f"{name} is missing", "missing", name)
    return value


def _flag(found: Mapping[str, list[str]], name: str) -> bool:
    value = _one(found, name).lower()
    if value not in ("", "true", "false", "1", "0"):
        raise _invalid(name, value, "give true or false")
    return value in ("true", "1")


def _number(found: Mapping[str, list[str]], name: str, kind: Callable[[str], _Number]) -> _Number | None:
    text = _one(found, name)
    if not text:
        return None
    try:
        value = kind(text)
        finite = math.isfinite(value)
    except (ValueError, OverflowError):  # no number, or a whole one beyond all floats
        value, finite = None, False
    if value is None or not finite or value < 0:
        raise _invalid(name, text, "give a whole number" if kind is int else "give a number of 0 or more")
    return value


def _invalid(name: str, value: str, remedy: str) -> Problem:
    return Problem(400, f"{name} is {value[:80]!r}; {remedy}", "invalid_value", name)


def _unsupported(name: str, message: str) -> Problem:
    return Problem(400, message, "unsupported_parameter", name)
