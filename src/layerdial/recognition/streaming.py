"""A stream: samples in as they come, results out, one or many streams a dispatch.

Shapes: S samples, B streams, T inputs or frames, F mel bins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import HIGHEST_RATE, LOWEST_RATE, SAMPLE_RATE
from layerdial.audio.resampling import Resampler
from layerdial.audio.streamed_mel import StreamedMel
from layerdial.audio.windows import checked_samples
from layerdial.errors import UserError
from layerdial.recognition.chunk_arrivals import ChunkArrivals
from layerdial.recognition.chunk_model import CHUNK_MS, ChunkModel
from layerdial.recognition.endpointing import DEFAULT_ENDPOINTS, Endpoints
from layerdial.recognition.stream_depths import Choice, DepthRule, Depths
from layerdial.recognition.stream_results import ResultPlan, StreamResult
from layerdial.recognizer import Recognizer
from layerdial.request import Request
from layerdial.subset import BlockSubset
from layerdial.transcript import Chunk, Transcribed


class StreamingRecognizer(Recognizer, Protocol):
    """A loaded model that may take speech in chunks."""

    @property
    def takes_chunks(self) -> bool:
        """Whether it does."""
        ...

    def chunk_model(self) -> ChunkModel:
        """Return the network, a chunk at a time. Raises `UserError` for a model that takes whole utterances."""
        ...

    def stream(
        self,
        request: Request | None = None,
        *,
        depth: Depths | None = None,
        chunk_ms: int = CHUNK_MS,
        endpoints: Endpoints | None = DEFAULT_ENDPOINTS,
    ) -> Stream:
        """Return a stream, which takes samples as they come; see `layerdial.runtime.streams.open_stream`."""
        ...

    def calibrated(self, made: Transcribed) -> Transcribed:
        """Return a transcript whose words have the confidence that a calibration found, if there is one."""
        ...


class Sound:
    """Samples as they come, at one rate, and the network's inputs of them, a chunk at a time."""

    def __init__(self, chunk_inputs: int) -> None:
        self._chunk_inputs = chunk_inputs
        self._mel = StreamedMel()
        self._resampler: Resampler | None = None
        self._rate = 0
        self._rest: NDArray[np.float32] | None = None  # inputs that are left where the audio has ended
        self._chunk: NDArray[np.float32] | None = None  # the next one, once it was asked for

    @property
    def n_samples(self) -> int:
        """The samples at 16 kHz that came."""
        return self._mel.n_samples

    @property
    def seconds(self) -> float:
        """The seconds of audio that came."""
        return self.n_samples / SAMPLE_RATE

    @property
    def ended(self) -> bool:
        return self._rest is not None

    @property
    def has_chunk(self) -> bool:
        if self._chunk is not None:
            return True
        return len(self._rest) > 0 if self._rest is not None else self._mel.ready >= self._chunk_inputs

    def feed(self, samples: NDArray[np.float32], rate: int) -> None:
        """Take the next samples (S,). Raises `UserError` for what is no audio, or at another rate than before."""
        samples = checked_samples(samples)
        self._mel.feed(self._resampler_at(rate).feed(samples.astype(np.float32, copy=False)))

    def _resampler_at(self, rate: int) -> Resampler:
        if self._resampler is None:
            if not LOWEST_RATE <= rate <= HIGHEST_RATE:
                raise UserError(f"samples are at {rate} Hz; speech is at {LOWEST_RATE} to {HIGHEST_RATE} Hz")
            self._resampler, self._rate = Resampler(rate), rate
        elif rate != self._rate:
            raise UserError(f"samples are at {rate} Hz, those before were at {self._rate} Hz; begin another stream")
        return self._resampler

    def end(self) -> None:
        """End the audio: what is left of it makes the last chunks."""
        if self._resampler is not None:
            self._mel.feed(self._resampler.feed(np.zeros(0, np.float32), last=True))
        whole = list[NDArray[np.float32]]()
        while self.has_chunk:
            whole.append(self.chunk())
            self.forget_chunk()
        self._rest = np.concatenate([*whole, self._mel.rest()])

    def chunk(self) -> NDArray[np.float32]:
        """Return the inputs of the next chunk (T, F), which must be there: the same until `forget_chunk`."""
        if self._chunk is None:
            self._chunk = self._take()
        return self._chunk

    def forget_chunk(self) -> None:
        """Go on to the next chunk."""
        self._chunk = None

    def _take(self) -> NDArray[np.float32]:
        if self._rest is None:
            return self._mel.take(self._chunk_inputs)
        chunk, self._rest = self._rest[: self._chunk_inputs], self._rest[self._chunk_inputs :]
        return chunk


@dataclass(frozen=True)
class StreamPlan:
    """How streams are recognised: so many inputs a chunk, which blocks run, and what becomes of the frames.

    `clock` gives seconds.
    """

    model: ChunkModel
    chunk_inputs: int
    depths: DepthRule
    results: ResultPlan
    clock: Callable[[], float] = time.monotonic

    @property
    def chunk_seconds(self) -> float:
        return self.chunk_inputs / self.model.features.per_second


class Stream:
    """A stream of speech, from its begin to `finish`. One thread at a time may use it; it holds no thread of its own.

    What it holds does not grow with its length, unless it was opened without end points.
    """

    def __init__(self, plan: StreamPlan) -> None:
        self.plan = plan
        self.reset()

    def reset(self) -> None:
        """Forget all that came: the stream is as a new one."""
        self._sound = Sound(self.plan.chunk_inputs)
        self._results = self.plan.results.begin()
        self._caches = self.plan.model.begin()
        self._n_chunks = 0
        self._arrivals = ChunkArrivals(self.plan.chunk_seconds)
        self._arrived = 0.0  # when the last chunk that was recognised was there
        self._closed = False
        self._failed: Exception | None = None
        self._found: list[StreamResult] = []  # that nobody was given yet
        self._last: Choice | None = None

    def another(self) -> Stream:
        """Return a new stream that is recognised as this one, and whose depths follow the same rule."""
        return Stream(self.plan)

    @property
    def seconds(self) -> float:
        """The seconds of audio that came."""
        return self._sound.seconds

    @property
    def ready(self) -> bool:
        """Whether there is something for `step_streams` to do: a chunk, the end, or results that nobody has yet."""
        return self._failed is None and (self._goes_on or bool(self._found))

    @property
    def _goes_on(self) -> bool:
        return not self._closed and (self._sound.has_chunk or self._sound.ended)

    @property
    def closed(self) -> bool:
        """Whether `finish` has given all results."""
        return self._closed

    @property
    def arrived(self) -> float:
        """When the last chunk that was recognised was there, by the clock of the stream."""
        return self._arrived

    @property
    def last_choice(self) -> Choice | None:
        """The blocks that ran in the last chunk; None before the first."""
        return self._last

    def accept(
        self, samples: NDArray[np.float32], sample_rate: int = SAMPLE_RATE, at: float | None = None
    ) -> list[StreamResult]:
        """Return the results that the next samples (S,) within [-1, 1] bring; how they are split changes nothing.

        `at` is when the last of them was there, by the clock of the stream; now, if left out. Raises `UserError` for
        samples that are not finite or no float array, which are not taken, so that the stream goes on without them. It
        is also raised for another sample rate than before, and after `finish`.

        Where the model fails, its error is raised as it is. The stream keeps the chunk, and the results before it: the
        next call begins there.
        """
        self.feed(samples, sample_rate, at)
        return self._results_now()

    def finish(self) -> list[StreamResult]:
        """Return the results of what is left, where the audio ends. Then only `reset` goes on.

        Where the model fails, its error is raised as it is, and another call goes on from there.
        """
        if self._closed or not self._sound.ended:
            self.end()
        self._check_sound()
        return self._results_now()

    def feed(self, samples: NDArray[np.float32], sample_rate: int = SAMPLE_RATE, at: float | None = None) -> None:
        """Take samples as `accept` does, for `step_streams` to recognise."""
        self._check_open()
        self._sound.feed(samples, sample_rate)
        self._arrivals.follow(self._sound.n_samples, self.plan.clock() if at is None else at)

    def end(self) -> None:
        """End the audio as `finish` does, for `step_streams` to recognise what is left."""
        self._check_open()
        self._sound.end()

    def _check_open(self) -> None:
        self._check_sound()
        if self._sound.ended:
            raise UserError("this stream has ended; reset() begins it anew")

    def _check_sound(self) -> None:
        if self._failed is not None:
            raise UserError("this stream has failed, and lost a chunk; reset() begins it anew")

    def _results_now(self) -> list[StreamResult]:
        while self._goes_on:
            _advance([self])
        return self._given()

    def _given(self) -> list[StreamResult]:
        found, self._found = self._found, []
        return found


def step_streams(streams: Sequence[Stream]) -> list[list[StreamResult]]:
    """Recognise one chunk of each stream that has one ready, in one dispatch for each depth. Return their results.

    The streams are of one model and one size of chunk. A stream without a chunk has no results. Where streams share a
    rule for their depth, it chooses for all of them at once. Where the model fails, its error is raised as it is; then
    each stream keeps its chunk, or the results of it, for the next call. A stream whose chunk was recognised, but whose
    text failed, takes nothing more.
    """
    if len({(id(one.plan.model), one.plan.chunk_inputs) for one in streams}) > 1:
        raise UserError("streams of several models or sizes of chunk cannot be stepped together")
    if len(set(map(id, streams))) < len(streams):
        raise UserError("a stream is there twice; each can take one chunk at a time")
    _check(streams)
    _advance(streams)
    return [one._given() for one in streams]


def _check(streams: Sequence[Stream]) -> None:
    """Raise the error of a stream that has failed."""
    for one in streams:
        if one._failed is not None:
            raise one._failed


def _advance(streams: Sequence[Stream]) -> None:
    """Recognise one chunk of each stream that has one ready, or its end; the streams hold their results."""
    for group in _by_subset([one for one in streams if one._goes_on and one._sound.has_chunk]):
        _step(group)
    for one in streams:
        if one._goes_on and not one._sound.has_chunk:
            one._found += one._results.finish(one.seconds)
            one._closed = True


_Chosen = tuple[Stream, Choice]


def _by_subset(streams: Sequence[Stream]) -> list[list[_Chosen]]:
    """Return the streams with what was chosen for their next chunk; those that run the same blocks are together."""
    by_rule: dict[int, list[Stream]] = {}
    for one in streams:
        by_rule.setdefault(id(one.plan.depths), []).append(one)
    groups: dict[BlockSubset, list[_Chosen]] = {}
    for sharing in by_rule.values():
        plan, now = sharing[0].plan, sharing[0].plan.clock()
        waited = max(0.0, *(now - one._arrivals.due for one in sharing))
        choices = plan.depths.choose([one._n_chunks for one in sharing], plan.chunk_seconds, waited, now)
        for one, choice in zip(sharing, choices, strict=True):
            groups.setdefault(choice.subset, []).append((one, choice))
    return list(groups.values())


def _step(chosen: Sequence[_Chosen]) -> None:
    """Recognise the next chunk of each stream, all of them with the same blocks."""
    streams, subset = [one for one, _ in chosen], chosen[0][1].subset
    plan = streams[0].plan
    begun = plan.clock()
    chunks = [one._sound.chunk() for one in streams]
    lengths_B = np.array([len(chunk) for chunk in chunks], np.int64)
    inputs_BTF = np.zeros((len(chunks), int(lengths_B.max()), chunks[0].shape[1]), np.float32)
    for row_TF, chunk in zip(inputs_BTF, chunks, strict=True):
        row_TF[: len(chunk)] = chunk
    first, *others = (one._caches for one in streams)
    caches = first.joined(others) if others else first
    logp_BTV, caches = plan.model.step(inputs_BTF, lengths_B, subset, caches)
    for one, own in zip(streams, caches.parted() if others else [caches], strict=True):
        one._caches, one._arrived = own, one._arrivals.due
        one._arrivals.took()
        one._sound.forget_chunk()
    now = plan.clock()
    for rule in {id(one.plan.depths): one.plan.depths for one in streams}.values():
        rule.observe(subset, len(streams), plan.chunk_seconds, 1000.0 * (now - begun), now)
    frames_B = plan.model.features.frames(lengths_B).tolist()
    for (one, choice), chunk, logp_TV, frames in zip(chosen, chunks, logp_BTV, frames_B, strict=True):
        try:
            _follow(one, chunk, logp_TV[:frames], choice)
        except Exception as error:  # the others have their results all the same
            one._failed = error
    _check(streams)


def _follow(stream: Stream, inputs_TF: NDArray[np.float32], logp_TV: NDArray[np.float32], choice: Choice) -> None:
    """Take the results of the frames of a stream's chunk."""
    start = stream._n_chunks * stream.plan.chunk_seconds
    end = start + len(inputs_TF) / stream.plan.model.features.per_second
    stream._n_chunks += 1
    stream._last = choice
    energies = np.exp(inputs_TF).sum(axis=1)
    stream._found += stream._results.follow(logp_TV, energies, Chunk(start, end, *choice))
