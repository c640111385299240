"""What a pool is given and what it gives back: jobs, answers, refusals, and figures about all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from layerdial.errors import UserError
from layerdial.recognizer import Audio
from layerdial.request import Request
from layerdial.transcript import Transcript


@dataclass(frozen=True)
class Job:
    """Audio to be transcribed within `deadline_ms` of its arrival, at the depth that the load allows.

    `depth` fixes the depth; else it is at least `min_depth`. Without a deadline the pool's own holds. `request` says
    how the text is searched and what comes with it: language, hotwords, words, timestamps. Its constraints are refused,
    since they are the pool's to keep. Raises `UserError` for fields that exclude each other or are invalid.
    """

    audio: Audio
    request: Request = field(default_factory=Request)
    depth: int | None = None
    min_depth: int | None = None
    deadline_ms: float | None = None

    def __post_init__(self) -> None:
        for name in ("depth", "subset", "first_depth", *self.request.constraints):
            if getattr(self.request, name) is not None:
                raise UserError(f"{name} of a request is for one recogniser alone; give the job depth or deadline_ms")
        if self.request.vad:
            raise UserError("vad of a request is for one recogniser alone; cut audio by a Segmenter, a job a stretch")
        if self.depth is not None and self.min_depth is not None:
            raise UserError("give one of depth, min_depth, not 2")
        if self.deadline_ms is not None and not 0 < self.deadline_ms < math.inf:
            raise UserError(f"deadline_ms is {self.deadline_ms}; give a number above 0")


@dataclass(frozen=True)
class Served:
    """The answer to a job. Times are in milliseconds since it arrived.

    `transcript.chunks` have the depth of each window and the reason for it; `depth` is the deepest, and `reason` its
    reason. `waited_ms` passed before the first window began, `took_ms` before the answer was there.
    """

    transcript: Transcript
    depth: int
    reason: str
    waited_ms: float
    took_ms: float
    deadline_ms: float

    @property
    def late(self) -> bool:
        """Whether it missed its deadline."""
        return self.took_ms > self.deadline_ms


class Refused(Exception):
    """A job that is not taken, said at once. Its text is one line.

    After `retry_after_s` there may be place for it; None where the deadline is too short even for an idle pool, and
    where the pool is closed.
    """

    def __init__(self, reason: str, retry_after_s: float | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Metrics:
    """Figures of a pool since it began: what became of its jobs, and its state now.

    `submitted` is the sum of `answered`, `refused`, `cancelled`, `failed`, `queued` and `running`. `late` counts
    answers after their deadline, `by_depth` windows by the depth that they were run at. `load` is the time that work
    takes now over its time on the idle device. `latency_ms` has quantiles (0.5, 0.95, 0.99) of the last answers; empty
    before.
    """

    submitted: int
    answered: int
    refused: int
    cancelled: int
    failed: int
    late: int
    queued: int
    running: int
    workers: int
    by_depth: Mapping[int, int]
    audio_seconds: float
    load: float
    latency_ms: Mapping[float, float]
