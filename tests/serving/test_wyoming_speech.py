"""What is said over Wyoming to a streaming model whose stream fails."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from wyoming.event import Eventable

from layerdial.serving.engine import Wish
from layerdial.serving.options import Limits
from layerdial.serving.problems import Problem
from layerdial.serving.streams import Deliver, Delivered
from layerdial.serving.wyoming_stream import Form, WyomingSpeech


class Engine:
    """What `WyomingSpeech` asks of an engine; its stream fails once audio has come."""

    limits, language = Limits(), "en"

    def __init__(self) -> None:
        self.held = 0

    async def open_stream(self, deliver: Deliver, *rest: Any) -> Any:
        def fail(samples: Any) -> None:
            deliver(Delivered((), ended=True, error=MemoryError("no room")))

        return SimpleNamespace(feed=fail, close=lambda: None)

    def hold(self, n_samples: int) -> None:
        self.held += n_samples

    def release(self, n_samples: int) -> None:
        self.held -= n_samples

    def problem_of(self, error: Exception) -> Problem:
        return Problem(500, str(error))


def test_who_goes_on_speaking_to_a_stream_that_has_failed_is_told() -> None:
    async def talk() -> None:
        async def send(event: Eventable) -> None: ...

        engine = Engine()
        speech = WyomingSpeech(engine, Form(16_000, 2, 1), send)  # type: ignore[arg-type]
        await speech.begin(Wish())
        speech.feed(bytes(3200))
        for _ in range(5):
            await asyncio.sleep(0)
        with pytest.raises(Problem, match="no room"):
            speech.feed(bytes(3200))
        speech.close()
        assert engine.held == 0

    asyncio.run(talk())
