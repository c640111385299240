"""The events of a Realtime session that its parts have in common."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from layerdial.audio.files import SAMPLE_RATE
from layerdial.serving.engine import Samples

TRANSCRIPTION = "conversation.item.input_audio_transcription"


class Send(Protocol):
    """Sends an event to the client of a session."""

    async def __call__(self, kind: str, **fields: Any) -> None: ...


class AudioInput(Protocol):
    """What becomes of the audio of a session: it is cut into items, each of which gets a text."""

    @property
    def holds_audio(self) -> bool:
        """Whether audio came that belongs to no item yet."""
        ...

    def changed(self) -> None:
        """Take over the session's depths. Raises `Problem` for those that are not possible."""
        ...

    async def append(self, samples: Samples) -> None:
        """Take the next samples (S,) at 16 kHz. Raises `Problem` for more than can be held."""
        ...

    async def commit(self, rest: Samples, stopping: bool = False) -> None:
        """End the item here, behind the last samples; also while the server is `stopping`.

        Raises `Problem` where there is no audio for one.
        """
        ...

    def begin(self) -> None:
        """Forget the audio that belongs to no item yet, and begin anew with the session's settings."""
        ...

    async def write(self) -> None:
        """Send the texts of items as they come, until cancelled."""
        ...

    async def behind(self, act: Callable[[], Awaitable[None]]) -> None:
        """Call `act` behind the events that what was committed before brings, but for texts whose items are told."""
        ...

    async def settled(self) -> None:
        """Wait until all that was committed has its text."""
        ...

    def end(self) -> None:
        """Give the places of all audio free."""
        ...


def new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:20]}"


def ms(sample: float) -> int:
    """Return the milliseconds before a sample at 16 kHz."""
    return round(1000 * sample / SAMPLE_RATE)
