"""The settings of a Realtime session: checked, merged with those before, and shown to the client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from layerdial.audio.utterances import Pauses
from layerdial.errors import UserError
from layerdial.request import Request
from layerdial.serving.engine import Engine, Wish
from layerdial.serving.problems import Problem
from layerdial.text.hotwords import hotwords_of

_KINDS = {"audio/pcm": None, "audio/pcmu": 8000, "audio/pcma": 8000}
_LOWEST, _HIGHEST = 8000, 48000
_AFTER_S = 0.3  # of audio behind speech
_HYSTERESIS = 0.15  # of probability, between speech that begins and speech that goes on


@dataclass(frozen=True)
class Session:
    """How the audio of a session comes, how it is cut, and how it is transcribed."""

    model: str
    kind: str = "audio/pcm"
    rate: int = 24000
    threshold: float = 0.5
    before_ms: int = 300
    silence_ms: int = 500
    detects: bool = True  # the ends of turns; else the client commits
    language: str | None = None
    wish: Wish = field(default_factory=Wish)

    @property
    def pauses(self) -> Pauses:
        """How stretches of speech are found."""
        silence = self.silence_ms / 1000.0
        release = max(0.0, self.threshold - _HYSTERESIS)
        return Pauses(
            self.threshold, release, silence=silence, before=self.before_ms / 1000.0, after=min(_AFTER_S, silence)
        )

    def shown(self) -> dict[str, Any]:
        """Return the settings as `session.created` and `session.updated` have them."""
        turns = {"type": "server_vad", "threshold": self.threshold}
        turns |= {"prefix_padding_ms": self.before_ms, "silence_duration_ms": self.silence_ms}
        transcription: dict[str, Any] = {"model": self.model, "language": self.language}
        hotwords = self.wish.request.hotwords
        if hotwords is not None:
            transcription["keywords"] = list(hotwords)
        audio = {
            "format": {"type": self.kind, "rate": self.rate},
            "transcription": transcription,
            "turn_detection": turns if self.detects else None,
        }
        own = {name: getattr(self.wish, name) for name in ("depth", "min_depth", "deadline_ms")}
        return {"type": "transcription", "audio": {"input": audio}, "layerdial": own}


def updated(session: Session, change: Any, engine: Engine) -> Session:
    """Return the settings with those of a `session.update`. Raises `Problem` for what is unknown or not possible."""
    change = _object("session", change, ("type", "audio", "include", "layerdial"))
    if change.get("type", "transcription") != "transcription":
        raise _bad("session.type", f"session.type is {change['type']!r:.60}; sessions here are of type transcription")
    if change.get("include"):
        raise _bad("session.include", "include: log-probabilities of tokens are not given here")
    audio = _object("session.audio", change.get("audio") or {}, ("input",))
    given = _object(
        "session.audio.input",
        audio.get("input") or {},
        ("format", "transcription", "turn_detection", "noise_reduction"),
    )
    if given.get("noise_reduction"):
        raise _bad("session.audio.input.noise_reduction", "noise_reduction is not done here; give null")
    if given.get("format"):
        session = _with_format(session, given["format"])
    if given.get("transcription"):
        session = _with_transcription(session, given["transcription"], engine)
    if "turn_detection" in given:
        session = _with_turns(session, given["turn_detection"])
    if change.get("layerdial"):
        session = _with_depth(session, change["layerdial"])
    return session


def _with_format(session: Session, given: Any) -> Session:
    name = "session.audio.input.format"
    given = _object(name, given, ("type", "rate"))
    kind = given.get("type", session.kind)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise _bad(f"{name}.type", f"the format is {kind!r:.60}; give {', '.join(_KINDS)}")
    rate = _KINDS[kind] or given.get("rate") or 24000
    if type(rate) is not int or not _LOWEST <= rate <= _HIGHEST:
        raise _bad(f"{name}.rate", f"the rate is {rate!r:.60}; give a whole number from {_LOWEST} to {_HIGHEST}")
    return replace(session, kind=kind, rate=rate)


def _with_transcription(session: Session, given: Any, engine: Engine) -> Session:
    name = "session.audio.input.transcription"
    given = _object(name, given, ("model", "language", "languages", "prompt", "keywords", "delay"))
    if (model := given.get("model")) is not None:
        engine.check_model(str(model), f"{name}.model")
        session = replace(session, model=model)
    for unwanted in ("prompt", "languages", "delay"):
        if given.get(unwanted):
            raise _bad(f"{name}.{unwanted}", f"{unwanted} is not taken here; leave it out")
    request = session.wish.request
    if "language" in given:
        language = given["language"]
        if not isinstance(language, str | None):
            raise _bad(f"{name}.language", "the language is no text; give a code such as en")
        request = engine.with_language(replace(request, language=None), language)
        session = replace(session, language=language)
    if "keywords" in given:
        try:
            request = replace(request, hotwords=given["keywords"] or None)
            hotwords_of(request.hotwords or [])
        except UserError as error:
            raise _bad(f"{name}.keywords", f"keywords: {error}") from None
    return replace(session, wish=replace(session.wish, request=_possible(request, engine)))


def _possible(request: Request, engine: Engine) -> Request:
    """Return the request. Raises `Problem` for one that the model cannot do, before any audio comes."""
    try:
        engine.recognizer.decoding.of(request, engine.names[0])
    except UserError as error:
        raise engine.problem(error) from None
    return request


def _with_turns(session: Session, given: Any) -> Session:
    if given is None:
        return replace(session, detects=False)
    name = "session.audio.input.turn_detection"
    known = ("type", "threshold", "prefix_padding_ms", "silence_duration_ms")
    unused = ("create_response", "interrupt_response", "idle_timeout_ms")
    given = _object(name, given, (*known, *unused))
    if given.get("type", "server_vad") != "server_vad":
        raise _bad(f"{name}.type", f"turn_detection is {given['type']!r:.60}; give server_vad or null")
    for unwanted in unused:
        if given.get(unwanted):
            raise _bad(f"{name}.{unwanted}", f"{unwanted} is not done here; leave it out")
    return replace(
        session,
        detects=True,
        threshold=_number(f"{name}.threshold", given, session.threshold, 0.05, 1),
        before_ms=round(_number(f"{name}.prefix_padding_ms", given, session.before_ms, 0, 5000)),
        silence_ms=round(_number(f"{name}.silence_duration_ms", given, session.silence_ms, 100, 10_000)),
    )


def _with_depth(session: Session, given: Any) -> Session:
    given = _object("session.layerdial", given, ("depth", "min_depth", "deadline_ms"))
    found: dict[str, Any] = {}
    for name in given:
        param, whole = f"session.layerdial.{name}", name != "deadline_ms"
        if given[name] is not None and whole and type(given[name]) is not int:
            raise _bad(param, f"{name} is {given[name]!r:.60}; give a whole number")
        found[name] = given[name] if given[name] is None else _number(param, given, 0, 1 if whole else 0.001, 1e9)
    return replace(session, wish=replace(session.wish, **found))


def _number(name: str, given: Mapping[str, Any], before: float, least: float, most: float) -> float:
    value = given.get(name.rpartition(".")[2])
    if value is None:
        return before
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad(name, f"{name} is {value!r:.60}; give a number")
    if not least <= value <= most:  # also NaN
        raise _bad(name, f"{name} is {value!s:.60}; give a number from {least:g} to {most:g}")
    return value


def _object(name: str, given: Any, known: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise _bad(name, f"{name} is no object")
    for key in given:
        if key not in known:
            raise _bad(f"{name}.{key:.60}", f"there is no {name}.{key:.60}; there are {', '.join(known)}")
    return given


def _bad(param: str, message: str) -> Problem:
    return Problem(400, message, "invalid_value", param)
