"""Sound that a streaming model recognises while it comes: partial text, utterances, errors and ends of the sound."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from layerdial.audio.live import Block, Sound
from layerdial.errors import UserError
from layerdial.recognition.stream_results import StreamResult
from layerdial.request import Request
from layerdial.runtime.listening import Utterance
from layerdial.runtime.live_streams import listen_in_chunks
from layerdial.runtime.stream_rows import StreamOptions
from tiny_streaming import SECOND, results_of, sound, streaming_recognizer

QUICK = StreamOptions(pause=0.2)


class Parts:
    """Sound whose blocks come at once; `then` is an error that it ends by, `lost` are seconds missing at a block."""

    name, rate = "parts", SECOND

    def __init__(
        self, samples: np.ndarray, then: Exception | None = None, lost: dict[int, float] | None = None
    ) -> None:
        self._samples, self._then, self._lost, self.stopped = samples, then, lost or {}, False

    def stop(self) -> None:
        self.stopped = True

    def blocks(self) -> Iterator[Block]:
        for number, start in enumerate(range(0, len(self._samples), SECOND // 20)):
            if self.stopped:
                return
            part = self._samples[start : start + SECOND // 20]
            yield Block(part, time.monotonic(), self._lost.get(number, 0.0))
        if self._then is not None:
            raise self._then


def heard(
    parts: Sound, request: Request | None = None
) -> tuple[list[tuple[StreamResult, Utterance | None]], list[str]]:
    said: list[str] = []
    return list(listen_in_chunks(streaming_recognizer(), parts, request or Request(), QUICK, said.append)), said


def test_results_are_those_of_the_stream_with_an_utterance_for_each_final_one() -> None:
    samples = sound(4.0)
    found, said = heard(Parts(samples), Request(words=True))
    expected = results_of(streaming_recognizer().stream(endpoints=QUICK.endpoints), [samples])
    assert [result for result, _ in found] == expected
    for result, utterance in found:
        assert (utterance is not None) == result.final
        if utterance is not None:
            assert (utterance.transcript.text, utterance.transcript.words) == (result.text, result.words)
            assert (utterance.start, utterance.end) == (result.start, result.end)
            assert utterance.behind >= 0 and utterance.delay > -1
    assert said == ["listening to parts; Ctrl-C ends", "listened for 4.0 s"]


def test_words_are_there_where_they_were_asked_for() -> None:
    found, _ = heard(Parts(sound(2.0)))
    assert all(utterance.transcript.words == () for _, utterance in found if utterance)


def test_what_is_lost_is_silence() -> None:
    _, said = heard(Parts(sound(1.0), lost={5: 2.5}))
    assert said[1:] == ["2.50 s of sound are lost: it came faster than it was taken", "listened for 3.5 s"]


def test_an_error_of_the_sound_comes_behind_what_was_said_before() -> None:
    found = []
    parts = Parts(sound(2.0), UserError("the cable is out"))
    with pytest.raises(UserError, match="the cable is out"):
        for result, _ in listen_in_chunks(streaming_recognizer(), parts, Request(), QUICK, print):
            found.append(result)
    assert found == results_of(streaming_recognizer().stream(endpoints=QUICK.endpoints), [sound(2.0)])


def test_who_leaves_early_stops_the_sound() -> None:
    parts = Parts(sound(2.0))
    results = listen_in_chunks(streaming_recognizer(), parts, Request(), QUICK, print)
    next(results)
    results.close()
    assert parts.stopped


def test_what_the_model_refuses_is_refused_before_anyone_speaks() -> None:
    said: list[str] = []
    with pytest.raises(UserError, match="language is for encoder-decoder models"):
        next(listen_in_chunks(streaming_recognizer(), Parts(sound(1.0)), Request(language="de"), QUICK, said.append))
    assert said == []
