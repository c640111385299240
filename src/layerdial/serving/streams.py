"""Streams of many clients over one streaming model: chunks that are ready are recognised together."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from layerdial.recognition.chunk_model import CHUNK_MS
from layerdial.recognition.endpointing import Endpoints
from layerdial.recognition.stream_depths import DepthRule, GivenDepths
from layerdial.recognition.stream_results import StreamResult
from layerdial.recognition.streaming import Stream, step_streams
from layerdial.request import Request
from layerdial.runtime.chunk_controller import SHARE, ChunkController, measured_costs
from layerdial.runtime.controller import CostTable, DepthOption, worthwhile
from layerdial.runtime.recognizer import OnnxRecognizer
from layerdial.runtime.streams import open_stream
from layerdial.serving.jobs import Refused

_log = logging.getLogger(__name__)
_MOST = 64  # streams a dispatch
_RULES = 64  # that are kept for streams to share; clients choose their deadlines
_FULL = 0.9  # of the time of all workers, at the shallowest depth


@dataclass(frozen=True)
class Delivered:
    """What a dispatch brought to one stream: results, and the milliseconds from when the chunk was there to them.

    `n_samples` are those that are no longer held. `ended` where the stream has ended, `error` where it failed; nothing
    comes behind either.
    """

    results: Sequence[StreamResult]
    delay_ms: float = 0.0
    n_samples: int = 0
    ended: bool = False
    error: Exception | None = None


Deliver = Callable[[Delivered], None]


@dataclass(frozen=True)
class Wanted:
    """Which depth a stream asks for: a fixed one, or what the load allows, `min_depth` at the least.

    `deadline_ms` is the time from the end of a chunk to its text.
    """

    depth: int | None = None
    min_depth: int | None = None
    deadline_ms: float | None = None


class LiveStream:
    """The stream of one client. Its methods return at once; `deliver` gets what comes, in a thread of the hub."""

    def __init__(self, hub: StreamHub, stream: Stream, deliver: Deliver) -> None:
        self._hub, self.stream, self.deliver = hub, stream, deliver
        self.pending: deque[tuple[NDArray[np.float32], float]] = deque()
        self.ending = self.taken = self.closed = False  # these are of the hub, under its lock
        self.rule = stream.plan.depths

    def feed(self, samples: NDArray[np.float32]) -> None:
        """Take the next samples (S,) at 16 kHz."""
        self._hub.take(self, samples)

    def change(self, wanted: Wanted) -> None:
        """Have the next chunks run at other depths. Raises `UserError` for one that does not exist."""
        self.rule = self._hub.rule_of(wanted)

    def end(self) -> None:
        """End the stream behind what came; `deliver` hears of it."""
        self._hub.take(self, None)

    def close(self) -> None:
        """Give the stream up. Nothing more is delivered, but for what is being delivered at this moment."""
        self._hub.drop(self)

    @property
    def waits(self) -> bool:
        """Whether there is something to do for it."""
        return bool(self.pending) or self.ending or self.stream.ready


class StreamHub:
    """Recognises the chunks of all streams that are open, those that are ready together in one dispatch.

    A stream without a depth of its own runs at the deepest that the load allows, `min_depth` at the least: the time of
    a dispatch is a share of its chunks' duration. `workers` dispatches are computed at a time.
    """

    def __init__(
        self, recognizer: OnnxRecognizer, workers: int, min_depth: int | None = None, chunk_ms: int = CHUNK_MS
    ) -> None:
        self.recognizer, self.workers, self.chunk_ms = recognizer, workers, chunk_ms
        self._min_depth = min_depth
        self._rule, self._given = (
            lru_cache(_RULES)(self._new_rule),
            cache(self._fixed),
        )  # streams with the same rule go together
        self._costs = cache(self._measured)
        self._changed = threading.Condition()
        self._streams: list[LiveStream] = []
        self._stopped = False
        self.by_depth: dict[int, int] = {}
        open_stream(recognizer, depth=self.rule_of(Wanted()), chunk_ms=chunk_ms)  # errors are said now
        self._threads = [threading.Thread(target=self._work, name="layerdial streams") for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    # ---------------------------------------------------------------------------------------------------- from outside

    @property
    def open(self) -> int:
        """The number of streams that are open."""
        return len(self._streams)

    @property
    def load(self) -> float:
        """The time that chunks take now over their time on the idle device."""
        return self._rule(self._min_depth or 1, None).slowdown(time.monotonic())

    def check_room(self) -> None:
        """Raise `Refused` where one more stream could not keep up even at the shallowest depth."""
        rule = self._rule(self._min_depth or 1, None)
        seconds = self.chunk_ms / 1000.0
        streams = self.open + 1
        needed_ms = rule.least_ms(streams * seconds, time.monotonic())
        if needed_ms > 1000.0 * _FULL * seconds * self.workers:
            raise Refused(f"{streams} streams cannot be recognised as they come; {self.open} are open", 5.0)

    def open_stream(
        self,
        deliver: Deliver,
        request: Request | None = None,
        wanted: Wanted | None = None,
        endpoints: Endpoints | None = None,
    ) -> LiveStream:
        """Return a stream. Raises `UserError` for what it cannot do, and `Refused`."""
        self.check_room()
        rule = self.rule_of(wanted or Wanted())
        stream = open_stream(self.recognizer, request, rule, self.chunk_ms, endpoints)
        live = LiveStream(self, stream, deliver)
        with self._changed:
            if self._stopped:
                raise Refused("the server is stopping", None)
            self._streams.append(live)
        return live

    def take(self, live: LiveStream, samples: NDArray[np.float32] | None) -> None:
        """Take samples for a stream, or its end; one that is closed takes nothing."""
        with self._changed:
            if live.closed:
                return
            if samples is None:
                live.ending = True
            else:
                live.pending.append((samples, time.monotonic()))
            self._changed.notify()

    def drop(self, live: LiveStream) -> None:
        """Forget a stream."""
        with self._changed:
            live.closed = True
            live.pending.clear()
            if live in self._streams:
                self._streams.remove(live)

    def close(self) -> None:
        """End the threads, and give up all streams."""
        with self._changed:
            self._stopped = True
            self._streams.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    # ----------------------------------------------------------------------------------------------------- dispatches

    def _work(self) -> None:
        while group := self._next_group():
            try:
                found = self._recognised(group)
            except Exception as error:  # the worker goes on, since all streams need it
                found = {id(live): Delivered((), ended=True, error=error) for live in group}
            self._deliver(group, found)  # in order: no other worker has these streams meanwhile
            with self._changed:
                for live in group:
                    live.taken = False
                self._changed.notify()

    def _next_group(self) -> list[LiveStream]:
        """Wait for streams with something to do; return a share of them, and none once the hub is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or any(self._free()))
            return [] if self._stopped else self._group()

    def _deliver(self, group: Sequence[LiveStream], found: dict[int, Delivered | None]) -> None:
        """Give each stream that is still open what is new for it, and close those that have ended."""
        for live in group:
            news = found[id(live)]
            if news is None or live.closed:
                continue
            if news.ended:
                self.drop(live)
            try:
                live.deliver(news)
            except Exception:  # whoever it was for is gone; the others are not
                _log.exception("the results of a stream could not be delivered")
                self.drop(live)

    def _free(self) -> list[LiveStream]:
        return [live for live in self._streams if not live.taken and live.waits]

    def _group(self) -> list[LiveStream]:
        """Return a worker's share of the streams with something to do; they are taken until it is done."""
        free = self._free()
        group = free[: min(_MOST, -(-len(free) // self.workers))]
        for live in group:
            live.taken = True
        for live in group:  # who comes first now comes last the next time
            self._streams.remove(live)
            self._streams.append(live)
        return group

    def _recognised(self, group: Sequence[LiveStream]) -> dict[int, Delivered | None]:
        """Recognise one chunk of each stream that has one; return what is new for each."""
        fed = {id(live): self._feed(live) for live in group}
        ready = [live for live in group if live.stream.ready and fed[id(live)][1] is None]
        for live in ready:
            if live.stream.plan.depths is not (rule := live.rule):
                live.stream.plan = replace(live.stream.plan, depths=rule)
        results = self._step(ready)
        return {id(live): self._news(live, *fed[id(live)], results.get(id(live))) for live in group}

    def _step(self, ready: Sequence[LiveStream]) -> dict[int, list[StreamResult] | Exception]:
        """Return the results of streams, or their errors. Where they fail together, each goes alone."""
        try:
            steps = step_streams([live.stream for live in ready])
        except Exception as error:
            if len(ready) == 1:
                return {id(ready[0]): error}
            alone = dict[int, list[StreamResult] | Exception]()
            for live in ready:
                alone |= self._step([live])
            return alone
        return {id(live): found for live, found in zip(ready, steps, strict=True)}

    def _feed(self, live: LiveStream) -> tuple[int, Exception | None]:
        """Give a stream what came for it, as far as the next chunk needs it; return how many samples it took."""
        n_samples = 0
        try:
            while not live.stream.ready:
                with self._changed:
                    if not live.pending:
                        if live.ending:
                            live.ending = False
                            live.stream.end()
                        break
                    samples, at = live.pending.popleft()
                n_samples += len(samples)
                live.stream.feed(samples, at=at)
        except Exception as error:
            return n_samples, error
        return n_samples, None

    def _news(
        self, live: LiveStream, n_samples: int, error: Exception | None, found: list[StreamResult] | Exception | None
    ) -> Delivered | None:
        if isinstance(found, Exception):
            error = found
        if error is not None:
            return Delivered((), n_samples=n_samples, ended=True, error=error)
        if found is None:
            return Delivered((), n_samples=n_samples) if n_samples else None
        assert not isinstance(found, Exception)
        self._count(live.stream)
        delay_ms = 1000.0 * max(0.0, time.monotonic() - live.stream.arrived)
        return Delivered(found, delay_ms, n_samples, live.stream.closed)

    def _count(self, stream: Stream) -> None:
        if (choice := stream.last_choice) is not None:
            with self._changed:
                self.by_depth[choice.subset.depth] = self.by_depth.get(choice.subset.depth, 0) + 1

    # ------------------------------------------------------------------------------------------------------- depths

    def rule_of(self, wanted: Wanted) -> DepthRule:
        """Return what chooses the depths of streams. Raises `UserError` for a depth that does not exist."""
        for depth in (wanted.depth, wanted.min_depth):
            if depth is not None:
                self.recognizer.subset(depth)
        if wanted.depth is not None:
            return self._given(wanted.depth)
        return self._rule(max(wanted.min_depth or 1, self._min_depth or 1), wanted.deadline_ms)

    def _fixed(self, depth: int) -> DepthRule:
        return GivenDepths(lambda chunk: depth, lambda given: self.recognizer.subset(depth))

    def _new_rule(self, min_depth: int, deadline_ms: float | None) -> ChunkController:
        options = [one for one in self._options() if one.depth >= min_depth]
        options = options or [DepthOption(min_depth, self.recognizer.subset(min_depth), None)]
        return ChunkController(self._costs(), options, SHARE, deadline_ms)

    def _options(self) -> Sequence[DepthOption]:
        return worthwhile(self.recognizer.ladder, self.recognizer.n_blocks)

    def _measured(self) -> CostTable:
        model, options = self.recognizer.chunk_model(), self._options()
        inputs = self.chunk_ms * model.features.per_second // 1000
        ends = {options[0].depth: options[0].subset, model.n_blocks: self.recognizer.subset()}
        return measured_costs(model, ends, inputs, self.recognizer.threads)
