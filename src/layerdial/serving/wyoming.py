"""The Wyoming protocol over TCP, which Home Assistant speaks: audio in, a transcript out."""

from __future__ import annotations

import asyncio
import io
import logging
import wave
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.error import Error
from wyoming.event import Event, Eventable, async_write_event
from wyoming.info import AsrModel, AsrProgram, Attribution, Describe, Info
from wyoming.ping import Ping, Pong

from layerdial import __version__
from layerdial.errors import UserError
from layerdial.request import Request
from layerdial.serving.engine import BYTES, Engine, Wish
from layerdial.serving.messages import bad_message, json_object
from layerdial.serving.problems import TOO_MANY_CONNECTIONS, Problem
from layerdial.serving.wyoming_stream import Form, WyomingSpeech
from layerdial.text.hotwords import hotwords_of

_log = logging.getLogger(__name__)
_LONGEST_LINE = 1 << 16
_MOST_DATA, _MOST_PAYLOAD = 1 << 20, 1 << 22
_TERM_WEIGHT, _NAME_WEIGHT = 1.0, 1.5  # "these take priority over terms", says the protocol of names
_WIDTHS = (1, 2, 3, 4)
_LINGER_S = 0.5  # in which a refused client's last bytes arrive


class WyomingServer:
    """Connections that have come by one port, at most as many as the limit of the server."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connections = set[asyncio.Task[None]]()

    async def start(self, sock: Any) -> asyncio.Server:
        """Listen at a bound socket."""
        return await asyncio.start_server(self._serve, sock=sock, limit=_LONGEST_LINE)

    async def end(self) -> None:
        """Close all connections; what they asked for has been answered."""
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if len(self._connections) > self._engine.limits.max_connections:
                await _send(writer, Error(TOO_MANY_CONNECTIONS, "overloaded"))
                return
            await _Connection(self._engine, reader, writer).run()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except Exception:
            _log.exception("a connection of Wyoming failed")
        finally:
            self._connections.discard(task)
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()


class _Connection:
    """One client: its events, one after the other. Its audio counts in the memory of all requests."""

    def __init__(self, engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._engine, self._reader, self._writer = engine, reader, writer
        self._wish, self._form, self._audio = Wish(), Form(16000, 2, 1), bytearray()
        self._held = 0  # samples that are counted
        self._speech: WyomingSpeech | None = None  # of a streaming model, between start and stop

    async def run(self) -> None:
        """Take events until the client closes, stalls, or asks for what cannot be done."""
        limits = self._engine.limits
        try:
            while event := await read_event(self._reader, limits.idle_s, limits.head_s, self._make_room):
                await self._take(event)
                self._make_room(0)
        except Problem as problem:
            self._count(str(problem.status))
            await _send(self._writer, Error(problem.message, problem.code))
            await self._pass_over_the_rest()
        except asyncio.CancelledError:  # the server ends, in the middle of what is being said
            if self._audio or self._speech is not None:
                await _send(self._writer, Error("the server is stopping; send the audio again later", "overloaded"))
            raise
        finally:
            self._leave_speech()
            self._engine.release(self._held)

    async def _pass_over_the_rest(self) -> None:
        """Read what is still on its way: closed before that, a connection is reset, and the client has no error."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while await self._reader.read(_LONGEST_LINE):
                    pass

    async def _take(self, event: Event) -> None:
        if Describe.is_type(event.type):
            await _send(self._writer, described(self._engine))
        elif Ping.is_type(event.type):
            await _send(self._writer, Pong(_text(event, "text")))
        elif Transcribe.is_type(event.type):
            self._wish = _wish_of(event, self._engine)
        elif event.type == "audio-start":
            await self._begin(event)
        elif event.type == "audio-chunk":
            await self._append(event)
        elif event.type == "audio-stop":
            await self._answer()
        # events of other services are no error: the protocol says to pass over them

    def _make_room(self, coming: int) -> None:
        """Count the bytes that are held and so many more. Raises `Problem` where those of all requests are too many."""
        more = -(-(len(self._audio) + coming) // BYTES) - self._held
        self._engine.hold(more) if more > 0 else self._engine.release(-more)
        self._held += more

    async def _begin(self, event: Event) -> None:
        self._form, self._audio = _form_of(event), bytearray()
        self._leave_speech()
        if self._engine.streams is not None:
            self._speech = WyomingSpeech(self._engine, self._form, partial(_send, self._writer))
            await self._speech.begin(self._wish)

    def _leave_speech(self) -> None:
        if self._speech is not None:
            self._speech.close()
            self._speech = None

    async def _append(self, event: Event) -> None:
        if self._engine.streams is not None:
            if self._speech is None:
                await self._begin(event)
            assert self._speech is not None
            if self._speech.form != _form_of(event):
                raise bad_message("the audio has another form than it began with; send audio-stop first")
            self._speech.feed(event.payload or b"")
            return
        self._form = _form_of(event)
        if len(self._audio) + len(event.payload or b"") > self._engine.limits.max_body:
            largest = f"{self._engine.limits.max_body_mb:g} MB (the server's --max-body-mb)"
            raise Problem(413, f"the audio is larger than {largest}", "request_too_large")
        self._audio += event.payload or b""

    async def _answer(self) -> None:
        content = _wav(self._audio, self._form) if self._audio else b""
        self._audio = bytearray()  # still counted: the content is as large
        wish, self._wish = self._wish, Wish()
        longest = self._engine.limits.max_request_s
        try:
            with self._engine.answering():
                async with asyncio.timeout(longest):
                    await _unless_closed(self._reader, self._write_text(content, wish))
        except TimeoutError:
            message = f"the text took longer than {longest:g} s (the server's --max-request-s)"
            raise Problem(408, message, "timeout") from None
        self._count("200")

    async def _write_text(self, content: bytes, wish: Wish) -> None:
        """Send the transcript in pieces as they come, and whole, as the protocol asks."""
        language, text = self._engine.language, ""
        if self._speech is not None:
            text = await self._speech.finish()
            self._leave_speech()
            await self._end_text(text)
            return
        await _send(self._writer, TranscriptStart(language=language))
        if content:
            async with self._engine.decoded("the audio", content) as samples:
                async for served in self._engine.parts(samples, wish):
                    more = " " * bool(text and served.transcript.text) + served.transcript.text
                    text += more
                    await _send(self._writer, TranscriptChunk(more))
        await self._end_text(text)

    async def _end_text(self, text: str) -> None:
        language = self._engine.language
        await _send(self._writer, Transcript(text, language=language))
        await _send(self._writer, TranscriptStop())

    def _count(self, status: str) -> None:
        self._engine.metrics.requests.labels("wyoming", status).inc()


async def _unless_closed(reader: asyncio.StreamReader, answering: Awaitable[None]) -> None:
    """Wait for an answer, and cancel it where the client closes the connection before it is there."""
    task = asyncio.ensure_future(answering)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=0.1)
            if reader.at_eof() or reader.exception() is not None:
                raise ConnectionResetError
        task.result()
    finally:
        task.cancel()


async def read_event(
    reader: asyncio.StreamReader, idle_s: float, rest_s: float, make_room: Callable[[int], None]
) -> Event | None:
    """Read an event; None where the client has closed, or sent nothing for `idle_s`.

    Once it has begun, it has `rest_s` to arrive. `make_room` is called with the size of a payload before it is read,
    and may raise `Problem`. Raises `Problem` for what is no event, or too large.
    """
    try:
        async with asyncio.timeout(idle_s):
            first = await reader.read(1)
        async with asyncio.timeout(rest_s):
            return await _event(reader, first, make_room) if first else None
    except TimeoutError:
        return None


async def _event(reader: asyncio.StreamReader, first: bytes, make_room: Callable[[int], None]) -> Event:
    try:
        head = json_object(first + (b"" if first == b"\n" else await reader.readuntil(b"\n")))
    except asyncio.LimitOverrunError:
        raise bad_message("the line of an event is too long") from None
    data = head.get("data") or {}
    if not isinstance(data, dict) or not isinstance(head.get("type"), str):
        raise bad_message("an event has a type and data")
    if length := _length(head, "data_length", _MOST_DATA):
        data = {**data, **json_object(await reader.readexactly(length))}
    length = _length(head, "payload_length", _MOST_PAYLOAD)
    make_room(length)
    return Event(head["type"], data, await reader.readexactly(length) if length else None)


def _length(head: Mapping[str, Any], name: str, most: int) -> int:
    length = head.get(name) or 0
    if type(length) is not int or not 0 <= length <= most:
        raise bad_message(f"{name} is {length!r:.40}; {most} bytes is the most")
    return length


def _wish_of(event: Event, engine: Engine) -> Wish:
    """Return how a `transcribe` event wants its audio transcribed."""
    if name := event.data.get("name"):
        engine.check_model(str(name), "name")
    request = engine.with_language(Request(), _text(event, "language"))
    phrases: dict[str, float] = {}
    for field, weight in (("transcript_terms", _TERM_WEIGHT), ("transcript_names", _NAME_WEIGHT)):
        given = event.data.get(field) or []
        if not isinstance(given, list):
            raise bad_message(f"{field} is no list")
        phrases |= {phrase if isinstance(phrase, str) else repr(phrase): weight for phrase in given}
    if phrases:
        try:
            request = replace(request, hotwords=dict(hotwords_of(phrases)))
        except UserError as error:
            raise bad_message(str(error)) from None
    return Wish(request)


def _form_of(event: Event) -> Form:
    rate, width, channels = (
        event.data.get(name, usual) for name, usual in (("rate", 16000), ("width", 2), ("channels", 1))
    )
    if type(rate) is not int or not 4000 <= rate <= 192_000:
        raise bad_message(f"rate is {rate!r:.40}; give 4000 to 192000")
    if width not in _WIDTHS or type(channels) is not int or not 1 <= channels <= 16:
        raise bad_message(
            f"width is {width!r:.40} and channels {channels!r:.40}; give 1 to 4 bytes, and 1 to 16 channels"
        )
    return Form(rate, int(width), channels)


def _wav(audio: bytearray, form: Form) -> bytes:
    """Return samples as a WAV file, which is read as any other; a sample that has not come whole is left out."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(form.channels)
        writer.setsampwidth(form.width)
        writer.setframerate(form.rate)
        writer.writeframes(audio[: len(audio) // (form.width * form.channels) * form.width * form.channels])
    return file.getvalue()


def described(engine: Engine) -> Info:
    """Return what the server can do."""
    source = Attribution("layerdial", "https://arxiv.org/abs/2601.16117")
    summary = f"{engine.recognizer.n_blocks} blocks, depths {', '.join(map(str, engine.depths))}"
    models = [AsrModel(name, source, True, summary, __version__, [engine.language]) for name in engine.names]
    text = "Speech recognition whose depth follows the load"
    program = AsrProgram("layerdial", source, True, text, __version__, models, supports_transcript_streaming=True)
    return Info(asr=[program])


def _text(event: Event, name: str) -> str | None:
    value = event.data.get(name)
    if value is not None and not isinstance(value, str):
        raise bad_message(f"{name} is no text")
    return value


async def _send(writer: asyncio.StreamWriter, event: Eventable) -> None:
    await async_write_event(event.event(), writer)
