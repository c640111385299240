"""The options of `layerdial serve`: what a server does, and how much it takes from a client, and for how long."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from layerdial.errors import UserError
from layerdial.serving.hosts import is_name

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
_LANGUAGE = re.compile(r"[a-z]{2,3}")


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may ask for. Raises `UserError` for a limit that is not a number above 0.

    Those without a help text are not options of the command.
    """

    max_body_mb: float = _option(32.0, "the largest request, in megabytes")
    max_audio_s: float = _option(1800.0, "the longest audio, in seconds")
    max_request_s: float = _option(120.0, "the longest that a request may take, in seconds, its upload included")
    max_connections: int = _option(256, "how many connections are open at a time")
    head_s: float = 10.0  # until the head of a request has arrived
    idle_s: float = 600.0  # without an event, in a session of Realtime or Wyoming

    def __post_init__(self) -> None:
        for one in fields(self):
            if not (math.isfinite(value := getattr(self, one.name)) and value > 0):
                name = f"--{one.name.replace('_', '-')}" if one.metadata else one.name
                raise UserError(f"{name} is {value}; give a number above 0")

    @property
    def max_body(self) -> int:
        """The largest request in bytes."""
        return round(1e6 * self.max_body_mb)

    @classmethod
    def help(cls, name: str) -> str:
        """Return the help text of a field, for command lines."""
        return str(cls.__dataclass_fields__[name].metadata["help"])

    @classmethod
    def options(cls) -> dict[str, type]:
        """Return the fields that are options of the command, and their types."""
        return {one.name: type(one.default) for one in fields(cls) if one.metadata}


@dataclass(frozen=True)
class ServeOptions:
    """The options of the command, with their help texts. Raises `UserError` for those that are invalid."""

    model: str | None = None  # that of `layerdial transcribe`
    host: str = _option("127.0.0.1", "the address to listen at; 0.0.0.0 lets other machines in")
    port: int = _option(8000, "the port of HTTP and websockets; 0 takes a free one")
    wyoming_port: int | None = _option(None, "the port of the Wyoming protocol (Home Assistant); none if left out")
    api_key_file: Path | None = _option(None, "a file of keys, one a line; clients must send one of them")  # noqa: RUF009
    name: Sequence[str] = _option((), "the name by which clients call the model, such as whisper-1; may be repeated")
    language: str | None = _option(None, "what a CTC model is for, such as en, told to clients that ask")
    min_depth: int | None = _option(None, "no request runs shallower than this under load")
    chunk_ms: int | None = _option(None, "of a streaming model: the milliseconds of a chunk, 320 if left out")
    cors_origin: Sequence[str] = _option((), "a site whose pages may use the server; may be repeated")
    allow_host: Sequence[str] = _option((), "a further name by which clients call the server; may be repeated")
    threads: int | None = _option(None, "threads of one request; else the fastest in the profile")
    limits: Limits = field(default_factory=Limits)
    ray: bool = _option(False, "as a Ray Serve deployment, on the cluster of RAY_ADDRESS or on one of this machine")
    replicas: int | None = _option(None, "with --ray: so many at the most; as many as the cluster has CPUs if left out")

    def __post_init__(self) -> None:
        if self.replicas is not None and not (self.ray and self.replicas >= 1):
            raise UserError(f"--replicas is {self.replicas}; give 1 or more, and --ray")
        if self.wyoming_port == self.port != 0:
            raise UserError(f"--wyoming-port is {self.port}, as --port is; give two ports")
        for name in self.name:
            if not _NAME.fullmatch(name):
                raise UserError(f"--name is {name!r}; give letters, digits and . _ / -")
        if self.language is not None and not _LANGUAGE.fullmatch(self.language):
            raise UserError(f"--language is {self.language!r}; give a code such as en")
        for origin in self.cors_origin:
            if not re.fullmatch(r"https?://[^/\s*]+", origin):
                raise UserError(f"--cors-origin is {origin!r}; give a site such as https://example.org, without a path")
        for name in self.allow_host:
            if not is_name(name):
                raise UserError(f"--allow-host is {name!r}; give a name such as speech.example.org, without a port")

    @classmethod
    def help(cls, name: str) -> str:
        """Return the help text of a field, for command lines."""
        return str(cls.__dataclass_fields__[name].metadata["help"])
