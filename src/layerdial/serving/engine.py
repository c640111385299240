"""From a request's audio to its answer, for all protocols: decoding, checks and limits around the pool."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE, PipedAudio
from layerdial.audio.windows import WINDOW_SECONDS, mono_blocks, pieces
from layerdial.errors import UserError
from layerdial.ladder import depths_of
from layerdial.recognition.endpointing import Endpoints
from layerdial.request import Request
from layerdial.runtime.recognizer import OnnxRecognizer
from layerdial.serving.jobs import Job, Refused, Served
from layerdial.serving.measured import measured_levels
from layerdial.serving.metrics import ServerMetrics
from layerdial.serving.options import Limits
from layerdial.serving.pool import Pool
from layerdial.serving.problems import Problem, busy
from layerdial.serving.streams import Deliver, LiveStream, StreamHub, Wanted

_log = logging.getLogger(__name__)
_READERS = 2  # threads that decode audio, and as many that check jobs
BYTES = 4  # of a sample in memory
_HELD = 4  # the audio of all requests together, files and samples, in longest requests

Samples = NDArray[np.float32]
_Started = tuple[int, Future[Served]]  # how many samples a job holds, and its result


@dataclass(frozen=True)
class Wish:
    """How a client wants its audio transcribed: see `layerdial.serving.jobs.Job`."""

    request: Request = field(default_factory=Request)
    depth: int | None = None
    min_depth: int | None = None
    deadline_ms: float | None = None

    @property
    def wanted(self) -> Wanted:
        """The depths of a stream. Raises `Problem` where they exclude each other."""
        if self.depth is not None and self.min_depth is not None:
            raise Problem(400, "give one of depth, min_depth, not 2", "invalid_value", "depth")
        return Wanted(self.depth, self.min_depth, self.deadline_ms)

    def job(self, samples: Samples) -> Job:
        """Return the job of samples (S,) at 16 kHz."""
        return Job(samples, self.request, self.depth, self.min_depth, self.deadline_ms)


class Engine:
    """A recogniser and its pool, as the protocols use them. `names` are those by which clients call the model."""

    def __init__(
        self,
        recognizer: OnnxRecognizer,
        pool: Pool,
        names: tuple[str, ...],
        limits: Limits,
        language: str | None = None,
        streams: StreamHub | None = None,
    ) -> None:
        self.recognizer, self.pool, self.names, self.limits = recognizer, pool, names, limits
        self.streams = streams  # where the model takes speech in chunks
        self._language = language
        self.metrics = ServerMetrics(pool.metrics, streams)
        self.stop = asyncio.Event()  # set once the server takes no more requests
        self.active = 0  # requests that are answered now
        self.created = int(time.time())
        self.depths = tuple(depths_of(recognizer.ladder, recognizer.n_blocks))
        self._readers = ThreadPoolExecutor(_READERS, "layerdial reader")
        self._checkers = ThreadPoolExecutor(_READERS, "layerdial checker")  # short checks do not wait for long files
        self._holding = threading.Lock()
        self._held = 0  # samples of all requests

    def close(self) -> None:
        """End the threads, after what they do."""
        for threads in (self._readers, self._checkers):
            threads.shutdown(wait=True, cancel_futures=True)
        self.pool.close(wait=False)
        if self.streams is not None:
            self.streams.close()

    # ------------------------------------------------------------------------------------------------- the model

    @cached_property
    def timed(self) -> Request | None:
        """The request that gives times: of words, or of segments alone; None where the model gives neither."""
        for request in (Request(words=True), Request(timestamps=True)):
            try:
                self.recognizer.decoding.of(request, "")
                return request
            except UserError:
                pass
        return None

    @cached_property
    def writes_tokens(self) -> bool:
        """Whether the model has a decoder, which writes each piece of audio by itself."""
        return self.recognizer.manifest.decoder is not None

    @cached_property
    def measured(self) -> dict[str, Any]:
        """What `/v1/models` says of the depths beside their numbers."""
        return measured_levels(self.recognizer)

    @cached_property
    def language(self) -> str:
        """The code of the language that the model takes speech for; `und` where its files do not say it."""
        if self._language or not self.writes_tokens:
            return self._language or "und"
        prompt = [self.recognizer.tokenizer.tokens[i] for i in self.recognizer.session.facts.prompt]
        return prompt[1].strip("<|>") if len(prompt) > 2 else "en"  # a start, a language, a task, no timestamps

    def check_model(self, name: str, param: str = "model") -> None:
        """Raise `Problem` for a model that is not here."""
        if name not in self.names:
            there = ", ".join(self.names)
            raise Problem(404, f"there is no model {name[:80]!r} here; give {there}", "model_not_found", param)

    def with_language(self, request: Request, language: str | None) -> Request:
        """Return a request with the language of a client, where the model takes one or has it anyway."""
        if not language or language == self.language:
            return request
        if not self.writes_tokens:
            remedy = "leave language out"
            if self.language == "und":
                remedy += f", or start the server with --language {language}, if that is what its model is for"
            raise Problem(400, f"this model takes no language; {remedy}", "invalid_value")
        return replace(request, language=language)

    # -------------------------------------------------------------------------------------------------- answers

    @contextmanager
    def answering(self, begun: bool = False) -> Iterator[None]:
        """Count a request that is answered within. Raises `Problem` once the server stops, unless it had `begun`."""
        if self.stop.is_set() and not begun:
            raise busy("the server is stopping; send the request again later", 5)
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1

    @asynccontextmanager
    async def decoded(self, name: str, content: bytes) -> AsyncIterator[Samples]:
        """Yield the samples of a file's content, and give their place free behind the block. Raises `Problem`."""
        samples = await asyncio.wrap_future(self._readers.submit(self._decode, PipedAudio(name, content)))
        with self.holding(len(samples)):
            yield samples

    @contextmanager
    def holding(self, n_samples: int) -> Iterator[None]:
        """Have so many samples in memory within. Raises `Problem` where those of all requests are too many."""
        self.hold(n_samples)
        try:
            yield
        finally:
            self.release(n_samples)

    def hold(self, n_samples: int) -> None:
        """Count samples that are in memory from now on. Raises `Problem` where those of all requests are too many."""
        with self._holding:
            if self._held + n_samples > _HELD * self.limits.max_audio_s * SAMPLE_RATE:
                raise busy("the server holds as much audio as it may; send the request again later", 5)
            self._held += n_samples

    def release(self, n_samples: int) -> None:
        """Count samples that are no longer in memory."""
        with self._holding:
            self._held -= n_samples

    async def answer(self, samples: Samples, wish: Wish) -> Served:
        """Return the answer. Raises `Problem` for what is refused; cancelling gives its place free."""
        return await self._answered(self._checkers, lambda: (0, self._submit(samples, wish)))

    async def answer_file(self, name: str, content: bytes, wish: Wish) -> Served:
        """Return the answer to the content of a file, which one thread decodes and submits; else as `answer`."""
        return await self._answered(self._readers, lambda: self._read_and_submit(PipedAudio(name, content), wish))

    async def _answered(self, threads: ThreadPoolExecutor, start: Callable[[], _Started]) -> Served:
        """Return the answer to the job that `start` submits in a thread, with how many samples it holds.

        The event loop waits once, for the answer: it would take time from the job's begin by waking up in between.
        """
        answer = Future[Served]()
        threads.submit(self._start, start, answer)
        try:
            served: Served = await asyncio.wrap_future(answer)
        except UserError as error:
            raise self.problem(error) from None
        self.metrics.answered(served)
        return served

    def _start(self, start: Callable[[], _Started], answer: Future[Served]) -> None:
        """Submit a job whose result becomes `answer`, unless nobody waits for that any more; cancelling gives it up."""
        if answer.cancelled():
            return
        try:
            held, job = start()
        except BaseException as error:
            with suppress(InvalidStateError):  # cancelled meanwhile
                answer.set_exception(error)
            return
        job.add_done_callback(lambda done: self._pass_on(done, held, answer))
        answer.add_done_callback(lambda done: job.cancel() if done.cancelled() else None)

    def _pass_on(self, job: Future[Served], held: int, answer: Future[Served]) -> None:
        self.release(held)
        with suppress(InvalidStateError):  # cancelled meanwhile
            if job.cancelled():
                answer.cancel()
            elif error := job.exception():
                answer.set_exception(error)
            else:
                answer.set_result(job.result())

    async def parts(self, samples: Samples, wish: Wish) -> AsyncIterator[Served]:
        """Yield the answers to pieces of the audio that follow each other, where the model takes them one by one.

        Texts are joined by spaces. With times, and of a CTC model, all audio is one piece.
        """
        timed = wish.request.words or wish.request.timestamps
        single = timed or not self.writes_tokens or len(samples) <= WINDOW_SECONDS * SAMPLE_RATE
        for piece in [samples] if single else pieces(samples):
            yield await self.answer(piece, wish)

    # -------------------------------------------------------------------------------------------------- streams

    def check_room(self) -> None:
        """Raise `Problem` where one more stream could not be recognised as it comes."""
        if self.streams is not None:
            try:
                self.streams.check_room()
            except Refused as refused:
                raise busy(refused.reason, refused.retry_after_s) from None

    async def open_stream(self, deliver: Deliver, wish: Wish, endpoints: Endpoints | None) -> LiveStream:
        """Return a stream as `StreamHub.open_stream` does. Raises `Problem` for what is refused."""
        assert self.streams is not None
        opening = partial(
            self.streams.open_stream,
            deliver,
            wish.request,
            wish.wanted,
            endpoints,
        )
        try:
            return await asyncio.wrap_future(self._checkers.submit(opening))
        except Refused as refused:
            raise busy(refused.reason, refused.retry_after_s) from None
        except UserError as error:
            raise self.problem(error) from None

    def problem_of(self, error: Exception) -> Problem:
        """Return what a client is told where its stream failed; the log has what is no mistake of the client."""
        if isinstance(error, UserError):
            return self.problem(error)
        _log.error("a stream failed", exc_info=error)
        return Problem(500, "an error of the server; its log says more", "internal_error")

    def problem(self, error: UserError) -> Problem:
        """Return what a client is told of an error: with the model's name, not with where it lies."""
        message = str(error)
        for place in (str(self.recognizer.folder.resolve()), str(self.recognizer.folder)):
            message = message.replace(place, self.names[0]) if "/" in place else message
        return Problem(400, message, "invalid_value")

    def _read_and_submit(self, audio: PipedAudio, wish: Wish) -> _Started:
        samples = self._decode(audio)
        self.hold(len(samples))
        try:
            return len(samples), self._submit(samples, wish)
        except BaseException:
            self.release(len(samples))
            raise

    def _submit(self, samples: Samples, wish: Wish) -> Future[Served]:
        try:
            return self.pool.submit(wish.job(samples))
        except Refused as refused:
            raise busy(refused.reason, refused.retry_after_s) from None
        except UserError as error:
            raise self.problem(error) from None

    def _decode(self, audio: PipedAudio) -> Samples:
        """Return all samples, read block by block, so that no header decides how much memory they take."""
        blocks, n_samples = list[Samples](), 0
        try:
            for block in mono_blocks(audio):
                blocks.append(block)
                n_samples += len(block)
                if n_samples > self.limits.max_audio_s * SAMPLE_RATE:
                    longest = f"{self.limits.max_audio_s:g} s (the server's --max-audio-s)"
                    raise Problem(413, f"{audio.name} is longer than {longest}; cut it", "audio_too_long", "file")
        except UserError as error:
            raise Problem(400, str(error), "invalid_audio", "file") from None
        return np.concatenate(blocks) if n_samples else np.zeros(1, np.float32)
