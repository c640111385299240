"""The limits of a server: how much it takes from a client, and for how long."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from layerdial.errors import UserError


def _option(default: float, text: str) -> Any:
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
        for name in (one.name for one in fields(self)):
            if not (math.isfinite(value := getattr(self, name)) and value > 0):
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
