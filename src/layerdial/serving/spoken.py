"""The audio of a Realtime session for a streaming model: texts come while somebody speaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from layerdial.audio.files import SAMPLE_RATE
from layerdial.errors import UserError
from layerdial.recognition.endpointing import Endpoints
from layerdial.recognition.stream_results import StreamResult
from layerdial.serving.engine import Engine, Samples
from layerdial.serving.events import TRANSCRIPTION, Send, ms, new_id
from layerdial.serving.problems import Problem
from layerdial.serving.session import Session
from layerdial.serving.streams import Delivered, LiveStream


@dataclass(eq=False)
class _Speech:
    """A stream, from the sample of the session at which it begins.

    Where `detects`, its end points end items; else it is one item. `answered` once an item of it has its text.
    """

    begin: int
    detects: bool
    live: LiveStream | None = None
    n_samples: int = 0
    answered: bool = False

    def ms(self, seconds: float) -> int:
        """Return the milliseconds of the session at a time of the stream."""
        return ms(self.begin + seconds * SAMPLE_RATE)

    def close(self) -> None:
        if self.live is not None:
            self.live.close()


class Spoken:
    """A stream: its end points are the ends of turns, or its client commits them. An item's text comes word by word.

    Each delta has the words that are certain, and in `layerdial` the whole text as it stands, the depth and the delay.
    `session()` has the settings of this moment; those of depth hold from the next chunk on, others from where a client
    commits or clears.
    """

    def __init__(self, engine: Engine, session: Callable[[], Session], send: Send) -> None:
        self._engine, self._session, self._send = engine, session, send
        self._news = asyncio.Queue[tuple[_Speech, Delivered]]()
        self._speech: _Speech | None = None  # that goes on
        self._ending: list[_Speech] = []  # whose last text has not come
        self._held = self._began = 0  # samples in memory, and of the session before the stream that goes on
        self._last_item: str | None = None
        self._begin_item()

    def _begin_item(self) -> None:
        self._item, self._sent, self._speaking = new_id("item"), "", False

    @property
    def holds_audio(self) -> bool:
        return self._speech is not None

    def begin(self) -> None:
        if self._speech is not None:
            self._speech.close()
            self._leave()
            self._begin_item()

    def _leave(self) -> None:
        """Have the stream that goes on go on no more."""
        assert self._speech is not None
        self._began += self._speech.n_samples
        self._speech = None

    def changed(self) -> None:
        assert self._engine.streams is not None
        wanted = self._session().wish.wanted
        try:
            self._engine.streams.rule_of(wanted)
            if self._speech is not None and self._speech.live is not None:
                self._speech.live.change(wanted)
        except UserError as error:
            raise self._engine.problem(error) from None

    async def append(self, samples: Samples) -> None:
        if not len(samples):
            return
        longest = self._engine.limits.max_audio_s
        if self._held + len(samples) > longest * SAMPLE_RATE:
            message = f"the stream is more than {longest:g} s (the server's --max-audio-s) behind; send no faster"
            raise Problem(413, message, "audio_too_long")
        speech = self._speech or await self._opened()
        assert speech.live is not None
        self._engine.hold(len(samples))
        self._held += len(samples)
        speech.n_samples += len(samples)
        speech.live.feed(samples)

    async def commit(self, rest: Samples) -> None:
        await self.append(rest)
        speech = self._speech
        if speech is not None and speech.live is not None:
            self._ending.append(speech)
            self._leave()
            speech.live.end()
        elif not self._session().detects:
            raise Problem(400, "the buffer holds no audio; append some first", "input_audio_buffer_commit_empty")

    async def settled(self) -> None:
        while self._ending:
            await asyncio.sleep(0.02)

    def end(self) -> None:
        for speech in (*self._ending, *([self._speech] if self._speech else [])):
            speech.close()
        self._engine.release(self._held)
        self._ending, self._speech, self._held = [], None, 0

    async def _opened(self) -> _Speech:
        """Open a stream with the session's settings. Raises `Problem` for what is refused."""
        session, loop = self._session(), asyncio.get_running_loop()
        speech = _Speech(self._began, session.detects)

        def deliver(news: Delivered) -> None:
            loop.call_soon_threadsafe(self._news.put_nowait, (speech, news))

        endpoints = Endpoints(silence=session.silence_ms / 1000.0) if session.detects else None
        speech.live = await self._engine.open_stream(deliver, session.wish, endpoints)
        self._speech = speech
        return speech

    # --------------------------------------------------------------------------------------------------------- texts

    async def write(self) -> None:
        while True:
            speech, news = await self._news.get()
            self._engine.release(news.n_samples)
            self._held -= news.n_samples
            if speech is not self._speech and speech not in self._ending:
                continue  # it was cleared
            for result in news.results:
                await self._tell(speech, result, news.delay_ms)
            if news.error is not None:
                await self._fail(news.error)
            if news.ended:
                await self._end(speech, failed=news.error is not None)

    async def _tell(self, speech: _Speech, result: StreamResult, delay_ms: float) -> None:
        """Send what a result adds to the text of the item."""
        if speech.detects and not self._speaking:
            self._speaking = True
            start = speech.ms(result.start)
            await self._send("input_audio_buffer.speech_started", audio_start_ms=start, item_id=self._item)
        certain = result.text if result.final else result.stable
        delta, self._sent = certain[len(self._sent) :], certain
        if delta or not result.final:
            now = {"text": result.text, "depth": result.depth, "delay_ms": round(delay_ms, 1)}
            await self._send(f"{TRANSCRIPTION}.delta", item_id=self._item, content_index=0, delta=delta, layerdial=now)
        if result.final:
            speech.answered = True
            if speech.detects:
                end = speech.ms(result.end)
                await self._send("input_audio_buffer.speech_stopped", audio_end_ms=end, item_id=self._item)
            await self._complete(result.text, result.end - result.start, self._of_depth(result, delay_ms))

    def _of_depth(self, result: StreamResult, delay_ms: float) -> dict[str, Any]:
        """Return which depths an item had, and why; `took_ms` is the delay behind its last chunk."""
        reasons = [chunk.reason for chunk in result.chunks if chunk.reason]
        own: dict[str, Any] = {"depth": result.depth, "n_blocks": self._engine.recognizer.n_blocks}
        own |= {"reason": reasons[-1] if reasons else f"depth {result.depth} was asked for"}
        own |= {"depths": [chunk.depth for chunk in result.chunks], "took_ms": round(delay_ms, 1)}
        assert self._engine.streams is not None
        chunk_ms = self._engine.streams.chunk_ms
        return own | {"deadline_ms": chunk_ms, "late": delay_ms > chunk_ms}

    async def _complete(self, text: str, seconds: float, own: dict[str, Any]) -> None:
        before, self._last_item = self._last_item, self._item
        await self._send("input_audio_buffer.committed", item_id=self._item, previous_item_id=before)
        usage = {"type": "duration", "seconds": round(seconds, 3)}
        done = {"transcript": text, "usage": usage, "layerdial": own}
        await self._send(f"{TRANSCRIPTION}.completed", item_id=self._item, content_index=0, **done)
        self._engine.metrics.requests.labels("realtime", "200").inc()
        self._begin_item()

    async def _end(self, speech: _Speech, failed: bool) -> None:
        """End a stream whose results have all been sent; what its client committed has a text even without a word."""
        speech.close()
        if speech is self._speech:
            self._leave()
        else:
            self._ending.remove(speech)
        if not (speech.detects or speech.answered or failed):
            await self._complete("", speech.n_samples / SAMPLE_RATE, {})

    async def _fail(self, error: BaseException) -> None:
        problem = self._engine.problem_of(error)
        self._engine.metrics.requests.labels("realtime", str(problem.status)).inc()
        await self._send(f"{TRANSCRIPTION}.failed", item_id=self._item, content_index=0, error=problem.error)
        self._begin_item()
