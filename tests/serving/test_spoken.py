"""The audio of a Realtime session for a streaming model, with a hub that says what a test tells it to say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from layerdial.errors import UserError
from layerdial.recognition.stream_results import StreamResult
from layerdial.serving.metrics import ServerMetrics
from layerdial.serving.options import Limits
from layerdial.serving.problems import Problem
from layerdial.serving.session import Session
from layerdial.serving.spoken import Spoken
from layerdial.serving.streams import Deliver, Delivered
from layerdial.subset import BlockSubset
from layerdial.transcript import Chunk

SECOND = np.zeros(16_000, np.float32)


@dataclass
class Live:
    """A stream that delivers what a test says."""

    deliver: Deliver
    events: list[str] = field(default_factory=list)

    def feed(self, samples: np.ndarray) -> None:
        self.events.append(f"feed {len(samples)}")

    def end(self) -> None:
        self.events.append("end")

    def close(self) -> None:
        self.events.append("close")

    def say(self, text: str, stable: str = "", final: bool = False, ended: bool = False, seconds: float = 0) -> None:
        chunk = Chunk(0.0, 1.0, BlockSubset.full(3), "")
        result = StreamResult(text, text if final else stable, final, 0.0, 1.0, (chunk,))
        self.deliver(Delivered([result], n_samples=round(16_000 * seconds), ended=ended))


class Desk:
    """What `Spoken` asks of an engine, and the events that its client gets."""

    def __init__(self, session: Session, **limits: float) -> None:
        self.session, self.limits = session, Limits(**limits)  # type: ignore[arg-type]
        self.streams = SimpleNamespace(chunk_ms=320, rule_of=lambda wanted: None)
        self.recognizer = SimpleNamespace(n_blocks=3)
        self.metrics = ServerMetrics(lambda: None)  # type: ignore[arg-type, return-value]
        self.lives: list[Live] = []
        self.sent: list[dict[str, Any]] = []
        self.held = self.active = 0
        self.sending = asyncio.Event()  # cleared: the client takes no events
        self.sending.set()
        self.spoken = Spoken(self, lambda: self.session, self.send)  # type: ignore[arg-type]

    async def send(self, kind: str, **fields: Any) -> None:
        await self.sending.wait()
        self.sent.append({"type": kind.rpartition(".")[2], **fields})

    async def open_stream(self, deliver: Deliver, *rest: Any) -> Live:
        self.lives.append(Live(deliver))
        return self.lives[-1]

    def hold(self, n_samples: int) -> None:
        self.held += n_samples

    def release(self, n_samples: int) -> None:
        self.held -= n_samples

    @contextmanager
    def answering(self, begun: bool = False) -> Any:
        self.active += 1
        yield
        self.active -= 1

    def problem_of(self, error: Exception) -> Problem:
        return Problem(500, str(error))

    def texts(self) -> list[tuple[str, str]]:
        """The kinds of events, and the text of each."""
        return [(one["type"], one.get("delta", one.get("transcript", ""))) for one in self.sent]


Act = Callable[[Desk], Awaitable[None]]


def run(act: Act, detects: bool = False, **limits: float) -> Desk:
    """A session in which a test acts while texts are written; nothing is held behind its end."""

    async def session() -> Desk:
        desk = Desk(Session("tones", detects=detects), **limits)
        writer = asyncio.ensure_future(desk.spoken.write())
        await act(desk)
        await settle()
        assert not writer.done()
        writer.cancel()
        desk.spoken.end()
        assert (desk.held, desk.active) == (0, 0)
        return desk

    return asyncio.run(session())


async def settle() -> None:
    """Let everything happen that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_what_is_cleared_is_no_longer_held_and_nothing_comes_of_it() -> None:
    async def act(desk: Desk) -> None:
        for _ in range(5):  # more than may wait, all together
            await desk.spoken.append(np.tile(SECOND, 4))
            desk.spoken.begin()
            assert desk.held == 0
        for live in desk.lives:  # what was being recognised
            live.say("gone", seconds=1)

    assert run(act, max_audio_s=5).sent == []


def test_texts_come_in_the_order_of_the_audio_and_none_is_mixed_with_another() -> None:
    async def act(desk: Desk) -> None:
        for _ in range(2):
            await desk.spoken.append(SECOND)
            await desk.spoken.commit(SECOND[:0])
        first, second = desk.lives
        first.say("low high", stable="low")
        second.say("middle middle", stable="middle", seconds=0.5)
        second.say("middle low", final=True, ended=True, seconds=0.5)
        await settle()
        assert desk.active == 2
        first.say("low high", final=True, ended=True, seconds=1)

    desk = run(act)
    deltas = [("delta", "low"), ("delta", " high"), ("committed", ""), ("completed", "low high")]
    deltas += [("delta", "middle"), ("delta", " low"), ("committed", ""), ("completed", "middle low")]
    assert desk.texts() == deltas
    items = [one["item_id"] for one in desk.sent]
    assert len(set(items[:4])) == len(set(items[4:])) == 1 and items[0] != items[-1]
    assert [one["previous_item_id"] for one in desk.sent if one["type"] == "committed"] == [None, items[0]]


def test_clearing_leaves_alone_what_was_committed() -> None:
    async def act(desk: Desk) -> None:
        await desk.spoken.append(SECOND)
        await desk.spoken.commit(SECOND[:0])
        desk.lives[0].say("low high", stable="low")
        await desk.spoken.append(SECOND)
        await settle()
        desk.spoken.begin()
        desk.lives[0].say("low high", final=True, ended=True)

    desk = run(act)
    assert desk.texts()[-1] == ("completed", "low high") and len({one["item_id"] for one in desk.sent}) == 1


def test_who_clears_while_a_text_is_sent_hears_no_more_of_it() -> None:
    async def act(desk: Desk) -> None:
        await desk.spoken.append(SECOND)
        desk.sending.clear()
        desk.lives[0].say("low", stable="low", seconds=1, ended=True)
        await settle()
        desk.spoken.begin()
        desk.sending.set()

    assert run(act).texts() == [("delta", "low")]


def test_a_stream_that_fails_says_so_and_the_next_audio_begins_another() -> None:
    async def act(desk: Desk) -> None:
        await desk.spoken.append(SECOND)
        desk.lives[0].deliver(Delivered((), ended=True, error=UserError("no room")))
        await settle()
        assert desk.held == 0 and "close" in desk.lives[0].events
        await desk.spoken.append(SECOND)
        await desk.spoken.commit(SECOND[:0])
        desk.lives[1].say("low", final=True, ended=True)

    desk = run(act)
    assert [one["type"] for one in desk.sent] == ["failed", "delta", "committed", "completed"]
    assert desk.sent[0]["item_id"] != desk.sent[1]["item_id"]


def test_what_is_to_come_behind_a_commit_waits_for_its_text() -> None:
    async def act(desk: Desk) -> None:
        await desk.spoken.append(SECOND)
        await desk.spoken.commit(SECOND[:0])
        await desk.spoken.behind(lambda: desk.send("updated"))
        assert desk.sent == []
        desk.lives[0].say("low", final=True, ended=True)
        await settle()
        await desk.spoken.behind(lambda: desk.send("updated"))

    assert [kind for kind, _ in run(act, detects=True).texts()][-3:] == ["completed", "updated", "updated"]


@pytest.mark.parametrize(
    ("done", "message"), [(0, "the stream is more than 2 s"), (2, "the item would be longer than 2 s")]
)
def test_neither_what_waits_nor_an_item_grows_without_end(done: float, message: str) -> None:
    async def act(desk: Desk) -> None:
        for _ in range(2):
            await desk.spoken.append(SECOND)
        desk.lives[0].say("low", seconds=done)
        await settle()
        with pytest.raises(Problem, match=message):
            await desk.spoken.append(SECOND)

    run(act, max_audio_s=2)
