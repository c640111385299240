"""Where the text of a stream ends: behind a pause, or where it has become too long."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from layerdial.errors import UserError


@dataclass(frozen=True)
class Endpoints:
    """When a text of a stream is final, in seconds.

    It ends where no word was emitted for `silence`. It does not end before it is `shortest` long, that pause included.
    At `longest` it ends without a pause: in front of its last word, which the next text begins with.
    """

    silence: float = 0.6
    shortest: float = 0.0
    longest: float = 20.0

    def __post_init__(self) -> None:
        if not 0.04 <= self.silence <= 60:  # also true for NaN
            raise UserError(f"silence is {self.silence}; an end point needs 0.04 to 60 seconds of it")
        if not 1 <= self.longest <= 600 or self.longest < self.silence:
            raise UserError(f"longest is {self.longest}; give 1 to 600 seconds, and no less than silence")
        if not 0 <= self.shortest <= self.longest:
            raise UserError(f"shortest is {self.shortest}; give 0 to longest, which is {self.longest:g}")


DEFAULT_ENDPOINTS = Endpoints()


class End(Enum):
    """Why a text ends. `NOTHING`: for a while nobody has said a word, so that what came can be forgotten."""

    PAUSE = 1
    LENGTH = 2
    NOTHING = 3


class EndpointDetector:
    """Follows a stream frame by frame, of which there are so many a second."""

    def __init__(self, endpoints: Endpoints, frames_per_second: float) -> None:
        self._silence, self._shortest, self._longest = (
            max(1, math.ceil(round(seconds * frames_per_second, 6)))
            for seconds in (endpoints.silence, endpoints.shortest, endpoints.longest)
        )
        self.begin()

    def begin(self, length: int = 0) -> None:
        """Begin a text, which is so many frames long already."""
        self._length = length  # from its first word on
        self._quiet = 0  # frames since a word was emitted

    def follow(self, speaks: bool) -> End | None:
        """Return whether the text ends with the next frame, in which a word is emitted (`speaks`) or none is."""
        self._quiet = 0 if speaks else self._quiet + 1
        if self._length or speaks:
            self._length += 1
        if not self._length:
            return End.NOTHING if self._quiet >= self._silence else None
        if self._quiet >= self._silence and self._length >= self._shortest:
            return End.PAUSE
        return End.LENGTH if self._length >= self._longest else None
