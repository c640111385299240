"""The audio of a Realtime session for a streaming model: texts come while somebody speaks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
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
    """A stream, from the sample of the session at which it begins, and what has been sent of the item that it is at.

    Where `detects`, its end points end items; else it is one item. `answered` once an item of it has its text. Of its
    `n_samples`, `held` are in memory. `news` wait for the streams before it. Once its client has committed it, it takes
    a `place` among what is answered, and `then` is called behind its last text.
    """

    begin: int
    detects: bool
    live: LiveStream | None = None
    n_samples: int = 0
    held: int = 0
    answered: bool = False
    news: deque[Delivered] = field(default_factory=deque)
    place: ExitStack = field(default_factory=ExitStack)
    then: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    item: str = field(default_factory=partial(new_id, "item"))
    sent: str = ""
    speaking: bool = False

    def begin_item(self) -> None:
        self.item, self.sent, self.speaking = new_id("item"), "", False

    def ms(self, seconds: float) -> int:
        """Return the milliseconds of the session at a time of the stream."""
        return ms(self.begin + seconds * SAMPLE_RATE)


class Spoken:
    """A stream: its end points are the ends of turns, or its client commits them. An item's text comes word by word.

    Each delta has the words that are certain, and in `layerdial` the whole text as it stands, the depth and the delay.
    `session()` has the settings of this moment; those of depth hold from the next chunk on, others from where a client
    commits or clears. Texts come in the order of the audio: those of a stream wait until the one before has ended.
    """

    def __init__(self, engine: Engine, session: Callable[[], Session], send: Send) -> None:
        self._engine, self._session, self._send = engine, session, send
        self._news = asyncio.Queue[tuple[_Speech, Delivered]]()
        self._speech: _Speech | None = None  # that goes on
        self._ending: list[_Speech] = []  # whose last text has not come
        self._began = 0  # samples of the session before the stream that goes on
        self._last_item: str | None = None

    @property
    def holds_audio(self) -> bool:
        return self._speech is not None

    @property
    def _open(self) -> list[_Speech]:
        """The streams in the order of their audio."""
        return [*self._ending, *([self._speech] if self._speech else [])]

    def begin(self) -> None:
        if self._speech is not None:
            self._free(self._speech)
            self._leave()

    def _leave(self) -> None:
        """Have the stream that goes on go on no more."""
        assert self._speech is not None
        self._began += self._speech.n_samples
        self._speech = None

    def _free(self, speech: _Speech) -> None:
        """Close a stream, and give its memory free, also that of audio which was not recognised."""
        if speech.live is not None:
            speech.live.close()
        speech.place.close()
        self._engine.release(speech.held)
        speech.held = 0

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
        self._check_length(len(samples))
        speech = self._speech or await self._opened()
        assert speech.live is not None
        self._engine.hold(len(samples))
        speech.held += len(samples)
        speech.n_samples += len(samples)
        speech.live.feed(samples)

    def _check_length(self, more: int) -> None:
        """Raise `Problem` where so many samples more are too many, waiting or in one item."""
        seconds = self._engine.limits.max_audio_s
        longest, limit = seconds * SAMPLE_RATE, f"{seconds:g} s (the server's --max-audio-s)"
        if sum(speech.held for speech in self._open) + more > longest:
            raise Problem(413, f"the stream is more than {limit} behind; send no faster", "audio_too_long")
        speech = self._speech
        if speech is not None and not speech.detects and speech.n_samples + more > longest:
            raise Problem(413, f"the item would be longer than {limit}; commit or clear it", "audio_too_long")

    async def commit(self, rest: Samples, stopping: bool = False) -> None:
        await self.append(rest)
        speech = self._speech
        if speech is not None and speech.live is not None:
            speech.place.enter_context(self._engine.answering(stopping))
            self._ending.append(speech)
            self._leave()
            speech.live.end()
        elif not self._session().detects:
            raise Problem(400, "the buffer holds no audio; append some first", "input_audio_buffer_commit_empty")

    async def behind(self, act: Callable[[], Awaitable[None]]) -> None:
        if self._ending:
            self._ending[-1].then.append(act)
        else:
            await act()

    async def settled(self) -> None:
        while self._ending:
            await asyncio.sleep(0.02)

    def end(self) -> None:
        for speech in self._open:
            self._free(speech)
        self._ending, self._speech = [], None

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
            speech.news.append(news)
            while (first := next(iter(self._open), None)) is not None and first.news:
                await self._take(first, first.news.popleft())

    async def _take(self, speech: _Speech, news: Delivered) -> None:
        """Send what is new of a stream, unless its client clears it meanwhile."""
        self._engine.release(news.n_samples)
        speech.held -= news.n_samples
        for result in news.results:
            if speech in self._open:
                await self._tell(speech, result, news.delay_ms)
        if news.ended and speech in self._open:
            await self._end(speech, news.error)

    async def _tell(self, speech: _Speech, result: StreamResult, delay_ms: float) -> None:
        """Send what a result adds to the text of the item."""
        item = speech.item
        if speech.detects and not speech.speaking:
            speech.speaking = True
            start = speech.ms(result.start)
            await self._send("input_audio_buffer.speech_started", audio_start_ms=start, item_id=item)
        certain = result.text if result.final else result.stable
        delta, speech.sent = certain[len(speech.sent) :], certain
        if delta or not result.final:
            now = {"text": result.text, "depth": result.depth, "delay_ms": round(delay_ms, 1)}
            await self._send(f"{TRANSCRIPTION}.delta", item_id=item, content_index=0, delta=delta, layerdial=now)
        if result.final:
            speech.answered = True
            if speech.detects:
                end = speech.ms(result.end)
                await self._send("input_audio_buffer.speech_stopped", audio_end_ms=end, item_id=item)
            speech.begin_item()
            await self._complete(item, result.text, result.end - result.start, self._of_depth(result, delay_ms))

    def _of_depth(self, result: StreamResult, delay_ms: float) -> dict[str, Any]:
        """Return which depths an item had, and why; `took_ms` is the delay behind its last chunk."""
        reasons = [chunk.reason for chunk in result.chunks if chunk.reason]
        own: dict[str, Any] = {"depth": result.depth, "n_blocks": self._engine.recognizer.n_blocks}
        own |= {"reason": reasons[-1] if reasons else f"depth {result.depth} was asked for"}
        own |= {"depths": [chunk.depth for chunk in result.chunks], "took_ms": round(delay_ms, 1)}
        assert self._engine.streams is not None
        deadline_ms = self._session().wish.deadline_ms or self._engine.streams.chunk_ms
        return own | {"deadline_ms": deadline_ms, "late": delay_ms > deadline_ms}

    async def _complete(self, item: str, text: str, seconds: float, own: dict[str, Any]) -> None:
        before, self._last_item = self._last_item, item
        await self._send("input_audio_buffer.committed", item_id=item, previous_item_id=before)
        usage = {"type": "duration", "seconds": round(seconds, 3)}
        done = {"transcript": text, "usage": usage, "layerdial": own}
        await self._send(f"{TRANSCRIPTION}.completed", item_id=item, content_index=0, **done)
        self._engine.metrics.requests.labels("realtime", "200").inc()

    async def _end(self, speech: _Speech, error: Exception | None) -> None:
        """End a stream whose results have all been sent; what its client committed has a text even without a word."""
        if speech is self._speech:
            self._free(speech)
            self._leave()
        if error is not None:
            await self._fail(speech.item, error)
        elif not (speech.detects or speech.answered):
            await self._complete(speech.item, "", speech.n_samples / SAMPLE_RATE, {})
        for act in speech.then:
            await act()
        if speech in self._ending:  # last, so that a server that stops waits for its text
            self._ending.remove(speech)
            self._free(speech)

    async def _fail(self, item: str, error: Exception) -> None:
        problem = self._engine.problem_of(error)
        self._engine.metrics.requests.labels("realtime", str(problem.status)).inc()
        await self._send(f"{TRANSCRIPTION}.failed", item_id=item, content_index=0, error=problem.error)
