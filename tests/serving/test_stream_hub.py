"""The hub of streams: an error is of one stream alone, nothing comes behind an end, and no worker is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.runtime.controller import CostTable
from layerdial.serving import streams
from layerdial.serving.streams import Delivered, LiveStream, StreamHub, Wanted
from tiny_streaming import results_of, sound, streaming_recognizer

SAMPLES = sound(1.0)


@pytest.fixture(scope="module")
def model() -> TorchRecognizer:
    return streaming_recognizer()


@pytest.fixture
def hub(model: TorchRecognizer, monkeypatch: pytest.MonkeyPatch) -> Iterator[StreamHub]:
    costs = CostTable((0.3, 1.2), (0.1, 0.1), {1: (0.1, 0.1), 3: (0.2, 0.2)})
    monkeypatch.setattr(streams, "measured_costs", lambda *given: costs)
    made = StreamHub(model, 1)  # type: ignore[arg-type]
    yield made
    made.close()
    assert not any(thread.is_alive() for thread in made._threads)


class Client:
    """A client that notes what comes, until its stream has ended."""

    def __init__(self, hub: StreamHub, deliver: Callable[[Delivered], None] | None = None) -> None:
        self.news: list[Delivered] = []
        self.ended = threading.Event()
        self.live: LiveStream = hub.open_stream(deliver or self.note, wanted=Wanted(depth=3))

    def note(self, news: Delivered) -> None:
        self.news.append(news)
        if news.ended:
            self.ended.set()

    def say(self, samples: np.ndarray = SAMPLES) -> None:
        self.live.feed(samples)
        self.live.end()

    @property
    def texts(self) -> list[str]:
        assert self.ended.wait(60)
        return [result.text for news in self.news for result in news.results if result.final]


@pytest.fixture(scope="module")
def expected(model: TorchRecognizer) -> list[str]:
    return [result.text for result in results_of(model.stream(endpoints=None), [SAMPLES]) if result.final]


def test_a_stream_ends_by_itself_and_counts_all_its_samples(hub: StreamHub, expected: list[str]) -> None:
    client = Client(hub)
    client.say()
    assert client.texts == expected and sum(news.n_samples for news in client.news) == len(SAMPLES)
    assert hub.open == 0
    client.say()
    assert not client.live.pending


def test_an_error_of_one_stream_is_not_of_the_others(
    hub: StreamHub, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [Client(hub) for _ in range(3)]
    monkeypatch.setattr(clients[0].live.stream._results, "follow", lambda *given: 1 / 0)
    with hub._changed:  # so that one dispatch has all
        for one in clients:
            one.live.pending.append((SAMPLES, 0.0))
            one.live.ending = True
        hub._changed.notify()
    assert [one.texts for one in clients] == [[], expected, expected]
    assert isinstance(clients[0].news[-1].error, ZeroDivisionError) and hub.open == 0


def test_a_model_that_fails_once_harms_nobody(
    hub: StreamHub, model: TorchRecognizer, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, failures = model.chunk_model().step, iter([MemoryError("no room")])
    clients = [Client(hub) for _ in range(2)]

    class Model:
        def __getattr__(self, name: str) -> Any:
            return getattr(model.chunk_model(), name)

        def step(self, *given: Any) -> Any:
            if error := next(failures, None):
                raise error
            return step(*given)

    broken: Any = Model()
    for one in clients:
        one.live.stream.plan = replace(one.live.stream.plan, model=broken)
    with hub._changed:
        for one in clients:
            one.live.pending.append((SAMPLES, 0.0))
            one.live.ending = True
        hub._changed.notify()
    assert [one.texts for one in clients] == [expected] * 2


def test_what_cannot_be_fed_ends_its_stream_and_its_samples_are_free(hub: StreamHub) -> None:
    client = Client(hub)
    client.live.feed(np.full(100, np.nan, np.float32))
    assert client.texts == [] and client.news[-1].n_samples == 100 and "not finite" in str(client.news[-1].error)


def test_who_cannot_be_told_harms_nobody(hub: StreamHub, expected: list[str]) -> None:
    def gone(news: Delivered) -> None:
        raise RuntimeError("Event loop is closed")

    left, client = Client(hub, gone), Client(hub)
    left.say()
    client.say()
    assert client.texts == expected and hub.open == 0


def test_a_worker_outlives_what_nobody_expected(
    hub: StreamHub, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Client(hub)
    with monkeypatch.context() as broken:
        broken.setattr(hub, "_news", lambda *given: 1 / 0)
        first.say()
        assert first.texts == [] and isinstance(first.news[-1].error, ZeroDivisionError)
    second = Client(hub)
    second.say()
    assert second.texts == expected


def test_deadlines_of_clients_are_not_kept_for_ever(hub: StreamHub) -> None:
    for deadline in range(1, 1000):
        hub.rule_of(Wanted(deadline_ms=float(deadline)))
    assert hub._rule.cache_info().currsize <= streams._RULES
