"""OpenAI's Realtime protocol for transcription: a websocket that takes audio as it is spoken, and gives texts."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.utterances import Segmenter, Stretch
from layerdial.serving.engine import Engine, Samples, Wish
from layerdial.serving.formats import of_depth
from layerdial.serving.incoming import Incoming
from layerdial.serving.jobs import Served
from layerdial.serving.messages import bad_message, json_object
from layerdial.serving.problems import Problem, busy
from layerdial.serving.session import Session, updated

_log = logging.getLogger(__name__)
_SHORTEST = SAMPLE_RATE // 10  # of what can be committed, as with OpenAI
_MOST_ITEMS = 64  # that wait for their text
_GOING_AWAY, _POLICY, _INTERNAL = 1001, 1008, 1011
_TRANSCRIPTION = "conversation.item.input_audio_transcription"


async def realtime(websocket: WebSocket) -> None:
    """Serve one session until its client or the server ends it."""
    engine: Engine = websocket.app.state.engine
    try:
        model = _asked_model(websocket, engine)
    except Problem as problem:
        await websocket.send_denial_response(JSONResponse(problem.body, problem.status, headers=problem.headers))
        return
    offered = websocket.scope.get("subprotocols", [])
    await websocket.accept("realtime" if "realtime" in offered else None)
    connection = _Connection(websocket, engine, Session(model))
    engine.metrics.requests.labels("realtime", "opened").inc()
    code = _INTERNAL
    try:
        code = await connection.run()
    finally:
        connection.end()
        if (
            websocket.client_state is WebSocketState.CONNECTED
            and websocket.application_state is WebSocketState.CONNECTED
        ):
            await websocket.close(code)


def _asked_model(websocket: WebSocket, engine: Engine) -> str:
    """Return the model of a session that may begin. Raises `Problem` for another."""
    if engine.stop.is_set():
        raise busy("the server is stopping; connect again later", 5)
    if websocket.query_params.get("intent") != "transcription":
        raise Problem(
            400, "sessions here transcribe; add ?intent=transcription to the address", "invalid_value", "intent"
        )
    model = websocket.query_params.get("model", engine.names[0])
    engine.check_model(model)
    return model


@dataclass(frozen=True)
class _Item:
    """Committed audio that waits for its text; `place` is what it takes in the engine."""

    id: str
    samples: Samples
    wish: Wish
    place: ExitStack


class _Connection:
    """A session: audio comes in, committed items are transcribed one after the other."""

    def __init__(self, websocket: WebSocket, engine: Engine, session: Session) -> None:
        self._websocket, self._engine, self._session = websocket, engine, session
        self._id = _new_id("sess")
        self._items = asyncio.Queue[_Item]()
        self._held: list[Samples] = []
        self._n_held = 0
        self._last_item: str | None = None
        self._item = _new_id("item")  # of the audio that comes now
        self._speaking = False
        self._begin_audio()

    def _begin_audio(self) -> None:
        self._incoming = Incoming(self._session.kind, self._session.rate)
        self._segmenter = Segmenter(self._session.pauses) if self._session.detects else None

    async def run(self) -> int:
        """Take events until the client closes, stalls, or the server stops; return the code to close with."""
        writer = asyncio.ensure_future(self._transcribe_items())
        try:
            await self._send("session.created", session=self._shown())
            code = await self._take_events()
            if code == _GOING_AWAY:  # what was committed is still answered
                answered = asyncio.ensure_future(self._items.join())
                await asyncio.wait({answered, writer}, return_when=asyncio.FIRST_COMPLETED)
                answered.cancel()
            return code
        except WebSocketDisconnect:
            return 1000
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    def end(self) -> None:
        """Give the places of all audio free."""
        self._drop()
        while not self._items.empty():
            self._items.get_nowait().place.close()

    async def _take_events(self) -> int:
        stopping = asyncio.ensure_future(self._engine.stop.wait())
        try:
            while True:
                coming = asyncio.ensure_future(self._websocket.receive())
                await asyncio.wait(
                    {coming, stopping}, timeout=self._engine.limits.idle_s, return_when=asyncio.FIRST_COMPLETED
                )
                if not coming.done():
                    coming.cancel()
                    return _GOING_AWAY if stopping.done() else _POLICY
                message = coming.result()
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect(message.get("code", 1000))
                await self._take(message.get("text"))
        finally:
            stopping.cancel()

    # ------------------------------------------------------------------------------------------- events of the client

    async def _take(self, text: str | None) -> None:
        """Act on a message, or answer with what is wrong with it."""
        event: Mapping[str, Any] = {}
        try:
            event = _parsed(text)
            await self._act(event)
        except RecursionError:
            await self._send("error", error=Problem(400, "the message is nested too deeply", "invalid_event").error)
        except Problem as problem:
            self._engine.metrics.requests.labels("realtime", str(problem.status)).inc()
            given = event.get("event_id")
            error = {**problem.error, "event_id": given if isinstance(given, str) else None}
            await self._send("error", error=error)

    async def _act(self, event: Mapping[str, Any]) -> None:
        kind = event.get("type")
        if kind == "input_audio_buffer.append":
            await self._append(event.get("audio"))
        elif kind == "input_audio_buffer.commit":
            await self._commit()
        elif kind == "input_audio_buffer.clear":
            self._drop()
            self._begin_audio()
            await self._send("input_audio_buffer.cleared")
        elif kind == "session.update":
            await self._update(event.get("session"))
        else:
            raise Problem(400, f"there is no event {kind!r:.60} here", "unknown_event", "type")

    async def _update(self, change: Any) -> None:
        before, self._session = self._session, updated(self._session, change, self._engine)
        turns_or_format = ("kind", "rate", "detects", "threshold", "before_ms", "silence_ms")
        if any(getattr(before, name) != getattr(self._session, name) for name in turns_or_format):
            if self._n_held or self._speaking:
                self._session = before
                raise Problem(
                    400, "format and turn_detection cannot change while audio is held; clear or commit it first"
                )
            self._begin_audio()
        await self._send("session.updated", session=self._shown())

    async def _append(self, encoded: object) -> None:
        samples = self._incoming.samples(encoded)
        if self._segmenter is None:
            self._hold(samples)
            return
        await self._turns(await asyncio.to_thread(self._segmenter.feed, samples))
        if self._segmenter.since is not None:
            await self._speech_started(self._segmenter.since)

    async def _commit(self) -> None:
        if self._segmenter is not None:
            await self._turns(await asyncio.to_thread(self._finish, self._segmenter))
            return
        self._hold(self._incoming.rest())
        if self._n_held < _SHORTEST:
            ms = 1000 * self._n_held // SAMPLE_RATE
            raise Problem(
                400, f"the buffer holds {ms} ms of audio; 100 ms is the least", "input_audio_buffer_commit_empty"
            )
        samples = np.concatenate(self._held)
        self._drop()
        await self._committed(samples)

    def _finish(self, segmenter: Segmenter) -> Sequence[Stretch]:
        return [*segmenter.feed(self._incoming.rest()), *segmenter.finish()]

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

    async def _turns(self, stretches: Sequence[Stretch]) -> None:
        """Have each turn transcribed; one that there is no place for fails alone, and those behind it are tried."""
        for stretch in stretches:
            await self._speech_started(stretch.start)
            try:
                await self._speech_stopped(stretch)
            except Problem as problem:
                refused, self._item = self._item, _new_id("item")
                await self._failed(refused, problem)

    async def _speech_started(self, start: int) -> None:
        if not self._speaking:
            self._speaking = True
            await self._send("input_audio_buffer.speech_started", audio_start_ms=_ms(start), item_id=self._item)

    async def _speech_stopped(self, stretch: Stretch) -> None:
        self._speaking = False
        await self._send("input_audio_buffer.speech_stopped", audio_end_ms=_ms(stretch.end), item_id=self._item)
        await self._committed(stretch.samples)

    async def _committed(self, samples: Samples) -> None:
        """Have committed audio transcribed behind what was committed before."""
        if self._items.qsize() >= _MOST_ITEMS:
            raise Problem(429, f"{_MOST_ITEMS} items wait for their text; commit less often", "too_many_items")
        with ExitStack() as stack:
            stack.enter_context(self._engine.answering())
            stack.enter_context(self._engine.holding(len(samples)))
            item = _Item(self._item, samples, self._session.wish, stack.pop_all())
        before, self._last_item, self._item = self._last_item, self._item, _new_id("item")
        self._items.put_nowait(item)
        await self._send("input_audio_buffer.committed", item_id=item.id, previous_item_id=before)

    async def _transcribe_items(self) -> None:
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
                await self._send(f"{_TRANSCRIPTION}.delta", item_id=item.id, content_index=0, delta=delta)
        usage = {"type": "duration", "seconds": round(len(item.samples) / SAMPLE_RATE, 3)}
        done = {"transcript": text, "usage": usage, "layerdial": of_depth(answers)}
        await self._send(f"{_TRANSCRIPTION}.completed", item_id=item.id, content_index=0, **done)
        self._engine.metrics.requests.labels("realtime", "200").inc()

    async def _failed(self, item: str, problem: Problem) -> None:
        self._engine.metrics.requests.labels("realtime", str(problem.status)).inc()
        await self._send(f"{_TRANSCRIPTION}.failed", item_id=item, content_index=0, error=problem.error)

    def _shown(self) -> dict[str, Any]:
        return {"id": self._id, "object": "realtime.transcription_session", **self._session.shown()}

    async def _send(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, "event_id": _new_id("event"), **fields}
        await self._websocket.send_text(json.dumps(event))


def _parsed(text: str | None) -> Mapping[str, Any]:
    if text is None:
        raise bad_message("events are text, this message is binary")
    return json_object(text)


def _new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:20]}"


def _ms(sample: int) -> int:
    return round(1000 * sample / SAMPLE_RATE)
