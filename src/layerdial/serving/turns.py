"""The audio of a Realtime session for a model that takes whole utterances: items are cut, and transcribed in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from starlette.websockets import WebSocketDisconnect

from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.utterances import Segmenter, Stretch
from layerdial.serving.engine import Engine, Samples, Wish
from layerdial.serving.events import TRANSCRIPTION, Send, ms, new_id
from layerdial.serving.formats import of_depth
from layerdial.serving.jobs import Served
from layerdial.serving.problems import Problem
from layerdial.serving.session import Session

_log = logging.getLogger(__name__)
_SHORTEST = SAMPLE_RATE // 10  # of what can be committed, as with OpenAI
MOST_ITEMS = 64  # that wait for their text


@dataclass(frozen=True)
class _Item:
    """Committed audio that waits for its text; `place` is what it takes in the engine."""

    id: str
    samples: Samples
    wish: Wish
    place: ExitStack


class Turns:
    """Audio that is held until a pause, or the client, ends a turn. `session()` has the settings of this moment."""

    def __init__(self, engine: Engine, session: Callable[[], Session], send: Send) -> None:
        self._engine, self._session, self._send = engine, session, send
        self._items = asyncio.Queue[_Item]()
        self._held: list[Samples] = []
        self._n_held = 0
        self._last_item: str | None = None
        self._item = new_id("item")  # of the audio that comes now
        self.begin()

    def begin(self) -> None:
        self._drop()
        self._segmenter = Segmenter(self._session().pauses) if self._session().detects else None

    @property
    def holds_audio(self) -> bool:
        return bool(self._n_held or self._speaking)

    def changed(self) -> None:
        """Do nothing: each turn takes what holds at its end."""

    async def append(self, samples: Samples) -> None:
        if self._segmenter is None:
            self._hold(samples)
            return
        await self._turns(await asyncio.to_thread(self._segmenter.feed, samples))
        if self._segmenter.since is not None:
            await self._speech_started(self._segmenter.since)

    async def commit(self, rest: Samples, stopping: bool = False) -> None:
        if self._segmenter is not None:
            await self._turns(await asyncio.to_thread(_finish, self._segmenter, rest), stopping)
            return
        self._hold(rest)
        if self._n_held < _SHORTEST:
            held_ms = 1000 * self._n_held // SAMPLE_RATE
            raise Problem(
                400, f"the buffer holds {held_ms} ms of audio; 100 ms is the least", "input_audio_buffer_commit_empty"
            )
        samples = np.concatenate(self._held)
        self._drop()
        await self._committed(samples, stopping)

    async def behind(self, act: Callable[[], Awaitable[None]]) -> None:
        await act()  # the client was told of each item as it was committed

    async def settled(self) -> None:
        await self._items.join()

    def end(self) -> None:
        self._drop()
        while not self._items.empty():
            self._items.get_nowait().place.close()

    def _hold(self, samples: Samples) -> None:
        longest = self._engine.limits.max_audio_s
        if self._n_held + len(samples) > longest * SAMPLE_RATE:
            message = f"the buffer would hold more than {longest:g} s (the server's --max-audio-s); commit or clear it"
            raise Problem(413, message, "audio_too_long")
        self._engine.hold(len(samples))
        self._held.append(samples)
        self._n_held += len(samples)

    def _drop(self) -> None:
        self._engine.release(self._n_held)
        self._held, self._n_held, self._speaking = [], 0, False

    # -------------------------------------------------------------------------------------------- turns and texts

    async def _turns(self, stretches: Sequence[Stretch], stopping: bool = False) -> None:
        """Have each turn transcribed; one that there is no place for fails alone, and those behind it are tried."""
        for stretch in stretches:
            await self._speech_started(stretch.start)
            try:
                await self._speech_stopped(stretch, stopping)
            except Problem as problem:
                refused, self._item = self._item, new_id("item")
                await self._failed(refused, problem)

    async def _speech_started(self, start: int) -> None:
        if not self._speaking:
            self._speaking = True
            await self._send("input_audio_buffer.speech_started", audio_start_ms=ms(start), item_id=self._item)

    async def _speech_stopped(self, stretch: Stretch, stopping: bool) -> None:
        self._speaking = False
        await self._send("input_audio_buffer.speech_stopped", audio_end_ms=ms(stretch.end), item_id=self._item)
        await self._committed(stretch.samples, stopping)

    async def _committed(self, samples: Samples, stopping: bool) -> None:
        """Have committed audio transcribed behind what was committed before."""
        if self._items.qsize() >= MOST_ITEMS:
            raise Problem(429, f"{MOST_ITEMS} items wait for their text; commit less often", "too_many_items")
        with ExitStack() as stack:
            stack.enter_context(self._engine.answering(stopping))
            stack.enter_context(self._engine.holding(len(samples)))
            item = _Item(self._item, samples, self._session().wish, stack.pop_all())
        before, self._last_item, self._item = self._last_item, self._item, new_id("item")
        self._items.put_nowait(item)
        await self._send("input_audio_buffer.committed", item_id=item.id, previous_item_id=before)

    async def write(self) -> None:
        while True:
            item = await self._items.get()
            try:
                with item.place:
                    await self._transcribe(item)
            finally:
                self._items.task_done()

    async def _transcribe(self, item: _Item) -> None:
        longest = self._engine.limits.max_request_s
        try:
            async with asyncio.timeout(longest):
                await self._send_text(item)
        except Problem as problem:
            await self._failed(item.id, problem)
        except TimeoutError:
            message = f"the text took longer than {longest:g} s (the server's --max-request-s)"
            await self._failed(item.id, Problem(408, message, "timeout"))
        except (WebSocketDisconnect, asyncio.CancelledError):
            raise
        except Exception:
            _log.exception("a transcription of a session failed")
            await self._failed(item.id, Problem(500, "an error of the server; its log says more", "internal_error"))

    async def _send_text(self, item: _Item) -> None:
        answers, text = list[Served](), ""
        async for served in self._engine.parts(item.samples, item.wish):
            answers.append(served)
            delta = " " * bool(text and served.transcript.text) + served.transcript.text
            text += delta
            if delta:
                await self._send(f"{TRANSCRIPTION}.delta", item_id=item.id, content_index=0, delta=delta)
        usage = {"type": "duration", "seconds": round(len(item.samples) / SAMPLE_RATE, 3)}
        done = {"transcript": text, "usage": usage, "layerdial": of_depth(answers)}
        await self._send(f"{TRANSCRIPTION}.completed", item_id=item.id, content_index=0, **done)
        self._engine.metrics.requests.labels("realtime", "200").inc()

    async def _failed(self, item: str, problem: Problem) -> None:
        self._engine.metrics.requests.labels("realtime", str(problem.status)).inc()
        await self._send(f"{TRANSCRIPTION}.failed", item_id=item, content_index=0, error=problem.error)


def _finish(segmenter: Segmenter, rest: Samples) -> Sequence[Stretch]:
    return [*segmenter.feed(rest), *segmenter.finish()]
