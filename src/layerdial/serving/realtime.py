"""OpenAI's Realtime protocol for transcription: a websocket that takes audio as it is spoken, and gives texts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from layerdial.serving.engine import Engine
from layerdial.serving.events import AudioInput, new_id
from layerdial.serving.incoming import Incoming
from layerdial.serving.messages import bad_message, json_object
from layerdial.serving.problems import Problem, busy
from layerdial.serving.session import Session, updated
from layerdial.serving.spoken import Spoken
from layerdial.serving.turns import Turns

_GOING_AWAY, _POLICY, _INTERNAL = 1001, 1008, 1011


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
    if engine.streams is not None:
        engine.check_room()
    return model


class _Connection:
    """A session: events come in, audio among them, and events with texts go out."""

    def __init__(self, websocket: WebSocket, engine: Engine, session: Session) -> None:
        self._websocket, self._engine, self._session = websocket, engine, session
        self._id = new_id("sess")
        self._incoming = Incoming(session.kind, session.rate)
        makes: type[Turns] | type[Spoken] = Turns if engine.streams is None else Spoken
        self._audio: AudioInput = makes(engine, lambda: self._session, self._send)

    def _begin_audio(self) -> None:
        self._incoming = Incoming(self._session.kind, self._session.rate)
        self._audio.begin()

    async def run(self) -> int:
        """Take events until the client closes, stalls, or the server stops; return the code to close with."""
        writer = asyncio.ensure_future(self._audio.write())
        try:
            await self._send("session.created", session=self._shown())
            code = await self._take_events(writer)
            if code == _GOING_AWAY:  # what has begun is still answered
                await self._end_turn()
                answered = asyncio.ensure_future(self._audio.settled())
                await asyncio.wait({answered, writer}, return_when=asyncio.FIRST_COMPLETED)
                answered.cancel()
            return code
        except WebSocketDisconnect:
            return 1000
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _end_turn(self) -> None:
        """End what is being said, as a commit does, where the server stops."""
        try:
            if self._audio.holds_audio:
                await self._audio.commit(self._incoming.rest(), stopping=True)
        except Problem as problem:
            await self._send("error", error=problem.error)

    def end(self) -> None:
        """Give the places of all audio free."""
        self._audio.end()

    async def _take_events(self, writer: asyncio.Future[None]) -> int:
        """Take events as `run` does; raise what ended the writer, without which no text would come any more."""
        stopping = asyncio.ensure_future(self._engine.stop.wait())
        try:
            while True:
                coming = asyncio.ensure_future(self._websocket.receive())
                waited: set[asyncio.Future[Any]] = {coming, stopping, writer}
                await asyncio.wait(waited, timeout=self._engine.limits.idle_s, return_when=asyncio.FIRST_COMPLETED)
                if writer.done():
                    coming.cancel()
                    writer.result()
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
            await self._audio.append(self._incoming.samples(event.get("audio")))
        elif kind == "input_audio_buffer.commit":
            await self._audio.commit(self._incoming.rest())
        elif kind == "input_audio_buffer.clear":
            self._begin_audio()
            await self._send("input_audio_buffer.cleared")
        elif kind == "session.update":
            await self._update(event.get("session"))
        else:
            raise Problem(400, f"there is no event {kind!r:.60} here", "unknown_event", "type")

    async def _update(self, change: Any) -> None:
        before, self._session = self._session, updated(self._session, change, self._engine)
        turns_or_format = ("kind", "rate", "detects", "threshold", "before_ms", "silence_ms")
        anew = any(getattr(before, name) != getattr(self._session, name) for name in turns_or_format)
        try:
            if anew and self._audio.holds_audio:
                message = "format and turn_detection cannot change while audio is held; clear or commit it first"
                raise Problem(400, message)
            self._audio.changed()
        except Problem:
            self._session = before
            raise
        if anew:
            self._begin_audio()
        await self._audio.behind(partial(self._send, "session.updated", session=self._shown()))

    def _shown(self) -> dict[str, Any]:
        return {"id": self._id, "object": "realtime.transcription_session", **self._session.shown()}

    async def _send(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, "event_id": new_id("event"), **fields}
        await self._websocket.send_text(json.dumps(event))


def _parsed(text: str | None) -> Mapping[str, Any]:
    if text is None:
        raise bad_message("events are text, this message is binary")
    return json_object(text)
