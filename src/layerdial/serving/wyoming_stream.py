"""Wyoming's audio for a streaming model: it is recognised as it comes, and certain words are sent at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
from wyoming.asr import TranscriptChunk, TranscriptStart
from wyoming.event import Eventable

from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.pcm import PcmForm, PcmFrames
from layerdial.audio.resampling import Resampler
from layerdial.recognition.endpointing import DEFAULT_ENDPOINTS
from layerdial.serving.engine import Engine, Samples, Wish
from layerdial.serving.problems import Problem
from layerdial.serving.streams import Delivered, LiveStream

_SUBTYPES = {1: "PCM_U8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"}


@dataclass(frozen=True)
class Form:
    """How samples come: so many a second, of so many bytes each, of so many channels."""

    rate: int
    width: int
    channels: int


class Pcm:
    """Turns bytes of one form into samples at 16 kHz; how they are split changes nothing."""

    def __init__(self, form: Form) -> None:
        self._frames = PcmFrames(PcmForm(_SUBTYPES[form.width], form.width, form.rate, form.channels))
        self._resampler = Resampler(form.rate)

    def feed(self, payload: bytes, last: bool = False) -> Samples:
        """Return the samples (S,) that the next bytes bring; a sample that never comes whole is left out."""
        return self._resampler.feed(self._frames.feed(payload).mean(axis=1, dtype=np.float32), last=last)


class WyomingSpeech:
    """What is said between `audio-start` and `audio-stop`."""

    def __init__(self, engine: Engine, form: Form, send: Callable[[Eventable], Awaitable[None]]) -> None:
        self.form = form
        self._engine, self._send, self._pcm = engine, send, Pcm(form)
        self._news = asyncio.Queue[Delivered]()
        self._live: LiveStream | None = None
        self._held = 0  # samples in memory
        self._texts: list[str] = []  # that are final
        self._sent = ""
        self._writing: asyncio.Task[None] | None = None

    async def begin(self, wish: Wish) -> None:
        """Open the stream. Raises `Problem` for what is refused."""
        loop = asyncio.get_running_loop()

        def deliver(news: Delivered) -> None:
            loop.call_soon_threadsafe(self._news.put_nowait, news)

        self._live = await self._engine.open_stream(deliver, wish, DEFAULT_ENDPOINTS)
        self._writing = asyncio.ensure_future(self._write())

    def feed(self, payload: bytes, last: bool = False) -> None:
        """Take bytes of audio. Raises `Problem` where too many wait, and where the stream has failed."""
        assert self._live is not None and self._writing is not None
        if self._writing.done():
            self._writing.result()
        samples = self._pcm.feed(payload, last)
        longest = self._engine.limits.max_audio_s
        if self._held + len(samples) > longest * SAMPLE_RATE:
            message = f"the audio is more than {longest:g} s (the server's --max-audio-s) ahead; send no faster"
            raise Problem(413, message, "audio_too_long")
        self._engine.hold(len(samples))
        self._held += len(samples)
        self._live.feed(samples)

    async def finish(self) -> str:
        """Return the whole text, where the audio ends. Raises `Problem` where the stream failed."""
        assert self._live is not None and self._writing is not None
        self.feed(b"", last=True)
        self._live.end()
        await self._writing
        return " ".join(self._texts)

    def close(self) -> None:
        """Give the stream's place free, also in the middle."""
        if self._writing is not None and not self._writing.cancel() and not self._writing.cancelled():
            self._writing.exception()  # else asyncio writes that nobody has seen it
        if self._live is not None:
            self._live.close()
        self._engine.release(self._held)
        self._held = 0

    async def _write(self) -> None:
        """Send certain words until the stream has ended."""
        await self._send(TranscriptStart(language=self._engine.language))
        while True:
            news = await self._news.get()
            self._engine.release(news.n_samples)
            self._held -= news.n_samples
            if news.error is not None:
                raise self._engine.problem_of(news.error)
            for result in news.results:
                certain = " ".join([*self._texts, result.stable]).strip()
                if result.final:
                    self._texts.append(result.text)
                if more := certain[len(self._sent) :]:
                    self._sent = certain
                    await self._send(TranscriptChunk(more))
            if news.ended:
                return
