"""Streams of a torch model: how samples are split changes nothing, many at once equal each alone, and bad input."""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import soxr
import torch

from layerdial import BlockSubset, UserError
from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.recognition.chunk_model import ChunkModel, StreamCaches
from layerdial.recognition.endpointing import Endpoints
from layerdial.recognition.stream_depths import Choice
from layerdial.recognition.stream_results import StreamResult
from layerdial.recognition.streaming import Stream, step_streams
from layerdial.request import Request
from layerdial.subset import ChunkSchedule
from layerdial.text.tokenizer import ListTokenizer
from tiny import tiny_network
from tiny_streaming import LETTERS, SECOND, parts_of, random_parts, results_of, sound, streaming_recognizer

QUICK = Endpoints(silence=0.2, longest=2.0)


@pytest.fixture(scope="module")
def model() -> TorchRecognizer:
    return streaming_recognizer()


def finals(results: Sequence[StreamResult]) -> list[str]:
    return [result.text for result in results if result.final]


# ------------------------------------------------------------------------------------------------------------- the text


@pytest.mark.parametrize("chunk_ms", [80, 320, 1280])
def test_a_stream_gives_the_text_of_the_network_over_the_whole_audio(model: TorchRecognizer, chunk_ms: int) -> None:
    samples = sound(5.03)
    depths = (3, 1, 2)
    stream = model.stream(depth=depths, chunk_ms=chunk_ms, endpoints=None)
    (final,) = [result for result in results_of(stream, [samples]) if result.final]
    schedule = ChunkSchedule((chunk_ms // 40,), tuple(map(model.subset, depths)))
    inputs = torch.from_numpy(model.features(samples))[None]
    with torch.no_grad():
        offline = model.network(inputs, torch.tensor([inputs.shape[1]]), schedule)
    text = model.decoding._texts(offline.log_probs_BTV, offline.lengths_B)  # type: ignore[attr-defined]
    assert [final.text] == text and len(final.text) > 5
    ran = [chunk.depth for chunk in final.chunks]
    assert ran == [depths[i % 3] for i in range(-(-503 * 10 // chunk_ms))][-len(ran) :]
    assert final.chunks[-1].end == final.end - 0.0 == pytest.approx(5.0, abs=0.031)


@pytest.mark.medium
def test_any_split_of_the_samples_gives_the_same_results(model: TorchRecognizer) -> None:
    samples, rng = sound(4.0), random.Random(0)
    stream = model.stream(depth=(3, 2), endpoints=QUICK)
    whole = results_of(stream, [samples])
    assert len(finals(whole)) > 2
    for _ in range(8):
        stream.reset()
        assert results_of(stream, random_parts(samples, rng)) == whole
    stream.reset()
    assert results_of(stream, parts_of(samples, range(1, len(samples)))) == whole  # one by one, and none at first


def test_another_rate_is_resampled_and_may_be_split_too(model: TorchRecognizer) -> None:
    samples = soxr.resample(sound(3.0), SECOND, 44_100).astype(np.float32)
    whole = results_of(model.stream(endpoints=QUICK), [samples], 44_100)
    parts = random_parts(samples, random.Random(1))
    assert results_of(model.stream(endpoints=QUICK), parts, 44_100) == whole
    assert whole[-1].end == pytest.approx(3.0, abs=0.05)


@pytest.mark.parametrize(
    "request_",
    [Request(), Request(beams=4, words=True), Request(hotwords=["cab"])],
    ids=["greedy", "beams", "hotwords"],
)
def test_what_is_stable_never_changes(model: TorchRecognizer, request_: Request) -> None:
    stable, n_partials = "", 0
    for result in results_of(model.stream(request_, chunk_ms=160, endpoints=QUICK), [sound(6.0)]):
        assert result.text.startswith(result.stable)
        assert result.stable.startswith(stable) and result.text.startswith(stable)
        n_partials += not result.final and bool(result.stable)
        stable = "" if result.final else result.stable
    assert n_partials > 5


def test_times_lie_one_after_the_other(model: TorchRecognizer) -> None:
    for request in (Request(timestamps=True), Request(beams=3, timestamps=True)):
        last = 0.0
        results = results_of(model.stream(request, endpoints=QUICK), [sound(8.0)])
        for result in filter(lambda one: one.final, results):
            assert " ".join(word.text for word in result.words) == result.text
            assert " ".join(segment.text for segment in result.segments) == result.text
            for word in result.words:
                assert last <= word.start <= word.end <= result.end and 0 <= word.confidence <= 1
                last = word.end
            assert result.start == result.words[0].start
            assert result.chunks[0].start <= result.start + 0.32 and result.end <= result.chunks[-1].end + 0.04


def test_a_stream_that_begins_anew_is_a_new_stream(model: TorchRecognizer) -> None:
    samples, stream = sound(4.0), model.stream(depth=(3, 1), endpoints=QUICK)
    first = results_of(stream, [samples])
    for _ in range(2):  # once behind the end, once in the middle
        stream.reset()
        assert results_of(stream, [samples]) == first
        stream.reset()
        stream.accept(samples[:SECOND])


def test_network_memory_goes_on_behind_a_final_result(model: TorchRecognizer) -> None:
    samples = sound(8.0)
    cut = results_of(model.stream(endpoints=QUICK), [samples])
    whole = results_of(model.stream(endpoints=None), [samples])
    letters = ["".join("".join(finals(results)).split()) for results in (cut, whole)]
    assert letters[0] == letters[1] and len(finals(cut)) > 4


# --------------------------------------------------------------------------------------------------------- many at once


def test_streams_in_one_dispatch_equal_each_alone(model: TorchRecognizer) -> None:
    audio = [sound(seconds, seed) for seed, seconds in enumerate((3.0, 2.0, 0.1, 0.0))]
    alone = [results_of(model.stream(endpoints=QUICK), [samples]) for samples in audio]
    first = model.stream(endpoints=QUICK)
    streams = [first, first.another(), *(model.stream(endpoints=QUICK) for _ in audio[2:])]
    for one, samples in zip(streams, audio, strict=True):
        one.feed(samples)
        one.end()
    together: list[list[StreamResult]] = [[] for _ in streams]
    dispatches = 0
    while any(one.ready for one in streams):
        dispatches += 1
        for found, new in zip(together, step_streams(streams), strict=True):
            found += new
    assert dispatches == 10  # chunks of the longest
    for found, own in zip(together, alone, strict=True):
        assert [(one.text, one.stable, one.final, one.chunks) for one in found] == [
            (one.text, one.stable, one.final, one.chunks) for one in own
        ]


def test_streams_without_a_chunk_are_left_as_they_are(model: TorchRecognizer) -> None:
    first, second = model.stream(), model.stream()
    first.feed(sound(1.0))
    before = second._caches
    assert step_streams([first, second])[1] == [] and second._caches is before


def test_streams_that_do_not_belong_together_are_refused(model: TorchRecognizer) -> None:
    stream = model.stream()
    for other in (streaming_recognizer(n_blocks=2).stream(), model.stream(chunk_ms=80)):
        with pytest.raises(UserError, match="several models or sizes of chunk"):
            step_streams([stream, other])
    with pytest.raises(UserError, match="a stream is there twice"):
        step_streams([stream, stream])


# ------------------------------------------------------------------------------------------------------------ bad input


def test_bad_samples_are_refused_and_the_stream_goes_on_without_them(model: TorchRecognizer) -> None:
    samples = sound(2.0)
    stream = model.stream(endpoints=QUICK)
    whole = results_of(model.stream(endpoints=QUICK), [samples])
    found = stream.accept(samples[:SECOND])
    bad = samples.copy()
    bad[5] = np.nan
    for wrong, problem in (
        (bad, "not finite"),
        (samples[None], "must be a float array"),
        ((samples * 32768).astype(np.int16), "must be a float array"),
        (samples * 32768, r"must lie within \[-1, 1\]"),
    ):
        with pytest.raises(UserError, match=problem):
            stream.accept(wrong)
    for rate in (8000, 0, 44_100):
        with pytest.raises(UserError, match=f"samples are at {rate} Hz, those before were at 16000 Hz"):
            stream.accept(samples, rate)
    assert found + stream.accept(samples[SECOND:]) + stream.finish() == whole


def test_a_stream_that_has_ended_takes_nothing(model: TorchRecognizer) -> None:
    stream = model.stream()
    stream.finish()
    for action in (lambda: stream.accept(sound(0.1)), stream.finish):
        with pytest.raises(UserError, match=r"this stream has ended; reset\(\) begins it anew"):
            action()


class Failing:
    """A model that fails the steps of these numbers, counted from 0, or steps of so many blocks."""

    def __init__(self, model: ChunkModel, *failing: int, depth: int = 0) -> None:
        self.model, self.failing, self.depth, self.steps = model, failing, depth, 0
        self.n_blocks, self.features, self.begin = model.n_blocks, model.features, model.begin

    def step(
        self, inputs_BTF: np.ndarray, lengths_B: np.ndarray, subset: BlockSubset, caches: StreamCaches
    ) -> tuple[np.ndarray, StreamCaches]:
        self.steps += 1
        if self.steps - 1 in self.failing or subset.depth == self.depth:
            raise MemoryError("no room")
        return self.model.step(inputs_BTF, lengths_B, subset, caches)


def failing(stream: Stream, *steps: int) -> Stream:
    return Stream(replace(stream.plan, model=Failing(stream.plan.model, *steps)))


def test_where_the_model_fails_the_stream_keeps_its_chunk_and_its_results(model: TorchRecognizer) -> None:
    samples = sound(3.0)
    whole = results_of(model.stream(endpoints=QUICK), [samples])
    stream, found = failing(model.stream(endpoints=QUICK), 2, 3, 11), list[StreamResult]()
    for _ in range(2):
        with pytest.raises(MemoryError):
            stream.accept(samples if not stream.seconds else samples[:0])
    found += stream.accept(samples[:0])
    with pytest.raises(MemoryError):
        stream.finish()
    with pytest.raises(UserError, match="this stream has ended"):
        stream.accept(samples)
    assert found + stream.finish() == whole


def test_where_one_depth_fails_streams_of_another_have_their_results(model: TorchRecognizer) -> None:
    samples = sound(3.0)
    good, bad = model.stream(depth=3), model.stream(depth=1)
    broken = Failing(good.plan.model, depth=1)
    pair = [Stream(replace(one.plan, model=broken)) for one in (good, bad)]
    for one in (*pair, good):
        one.feed(samples)
    found = list[StreamResult]()
    for _ in range(3):
        with pytest.raises(MemoryError):
            step_streams(pair)
        found += step_streams(pair[:1])[0]
    assert found == [result for _ in range(6) for result in step_streams([good])[0]][: len(found)] and found
    assert not pair[1]._n_chunks and pair[1].ready


def test_a_stream_whose_text_fails_ends_and_the_others_go_on(
    model: TorchRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = model.stream()
    streams = [first, first.another(), first.another()]
    for one in streams:
        one.feed(sound(1.0))
    monkeypatch.setattr(streams[1]._results, "follow", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        step_streams(streams)
    for action in (lambda: streams[1].accept(sound(0.1)), streams[1].finish):
        with pytest.raises(UserError, match=r"this stream has failed, and lost a chunk; reset\(\) begins it anew"):
            action()
    assert not streams[1].ready
    alone = [one.text for one in results_of(model.stream(), [sound(1.0)])]
    assert [[one.text for one in stream.finish()] for stream in (streams[0], streams[2])] == [alone] * 2
    streams[1].reset()
    assert results_of(streams[1], [sound(1.0)]) == results_of(model.stream(), [sound(1.0)])


@pytest.mark.slow
def test_what_a_stream_holds_does_not_grow(model: TorchRecognizer) -> None:
    stream, sizes = model.stream(chunk_ms=1280), []
    minute = np.concatenate([sound(10.0), np.zeros(50 * SECOND, np.float32)])
    for minutes in (1, 9):
        for _ in range(minutes):
            stream.accept(minute)
        sizes.append(len(pickle.dumps((stream._sound._mel._held, stream._results, stream._caches))))
    assert sizes[1] < 1.01 * sizes[0] and stream.seconds == 600


@pytest.mark.parametrize("count", [0, 1, 79, 80, 200, 5239, 5240, 5241])
def test_short_streams_end_well(model: TorchRecognizer, count: int) -> None:
    results = results_of(model.stream(), [sound(1.0)[:count]])
    assert len(finals(results)) <= 1 and all(0 <= one.start <= one.end <= count / SECOND + 0.06 for one in results)


def test_a_rate_that_speech_does_not_have_is_refused(model: TorchRecognizer) -> None:
    with pytest.raises(UserError, match="samples are at 100 Hz; speech is at 4000 to 768000 Hz"):
        model.stream().accept(sound(0.1), 100)


def test_caches_of_another_model_or_batch_are_refused(model: TorchRecognizer) -> None:
    chunks, other = model.chunk_model(), streaming_recognizer(n_blocks=2).chunk_model()
    inputs, lengths = np.zeros((1, 8, 80), np.float32), np.array([8])
    full = BlockSubset.full(3)
    with pytest.raises(UserError, match="the caches are of another model"):
        chunks.step(inputs, lengths, full, other.begin())
    with pytest.raises(UserError, match="the caches are of 2 streams, the chunk is of 1"):
        chunks.step(inputs, lengths, full, chunks.begin().joined([chunks.begin()]))
    with pytest.raises(UserError, match="the caches are of another model"):
        chunks.step(inputs, lengths, full, chunks.begin().arrays()._replace(seen_B=np.zeros(1, np.float32)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"chunk_ms": 100}, "chunks are of 100 ms; give a multiple of 40, up to 60000"),
        ({"chunk_ms": 0}, "chunks are of 0 ms"),
        ({"depth": 4}, "depth 4 does not exist in an encoder of 3 blocks"),
        ({"depth": (3, 0)}, "depth 0 does not exist"),
        ({"depth": ()}, "the depths of chunks are none"),
        ({"depth": BlockSubset.full(2)}, "subset 11 is for 2 blocks, this model has 3"),
        ({"request": Request(2), "depth": 3}, "the request names its blocks; leave depth out"),
        ({"request": Request(confidence=0.5)}, "confidence is for whole recordings"),
        ({"request": Request(max_cpu=0.5)}, "max_cpu is for whole recordings"),
        ({"request": Request(vad=True)}, "vad is for whole recordings"),
        ({"request": Request(target_rtf=2.0)}, "does not keep up"),
        ({"request": Request(language="de")}, "language is for encoder-decoder models"),
        ({"request": Request(hotwords=["xyz"])}, "cannot spell the hotwords 'xyz'"),
        ({"request": Request(beams=4, deadline_ms=9.0)}, "beams and deadline_ms exclude each other"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_stream_cannot_do_is_refused(model: TorchRecognizer, given: dict[str, object], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        model.stream(**given)  # type: ignore[arg-type]


def test_a_model_for_whole_utterances_says_what_to_do() -> None:
    whole = TorchRecognizer(tiny_network(), ListTokenizer(LETTERS, "char"))
    assert not whole.takes_chunks and streaming_recognizer().takes_chunks
    with pytest.raises(
        UserError, match=r"takes whole utterances; for streaming, train a Conformer with model\.streaming"
    ):
        whole.stream()


# --------------------------------------------------------------------------------------------------------------- depths


def test_depths_may_be_a_function_of_the_chunk(model: TorchRecognizer) -> None:
    asked = []

    def depth(chunk: int) -> int:
        asked.append(chunk)
        return 1 + chunk % 2

    results = results_of(model.stream(depth=depth, endpoints=None), [sound(2.0)])
    assert asked == list(range(7))
    ran = [chunk.depth for chunk in results[-1].chunks]
    assert ran == [1, 2, 1, 2, 1, 2, 1][-len(ran) :]


def test_a_share_of_the_time_is_kept_by_a_controller(model: TorchRecognizer) -> None:
    results = results_of(model.stream(Request(target_rtf=0.9)), [sound(2.0)])
    assert {chunk.reason[:27] for chunk in results[-1].chunks} <= {
        "deepest within 288 ms",
        "deepest within 288 ms, reck",
    }


class Watching:
    """A rule that runs all blocks, and notes how long chunks had waited, of how many streams, and what they took."""

    def __init__(self) -> None:
        self.waited: list[float] = []
        self.took: list[tuple[int, float]] = []

    def choose(self, chunks: Sequence[int], seconds: float, waited: float, now: float) -> list[Choice]:
        self.waited.append(round(waited, 6))
        return [Choice(BlockSubset.full(3), "watched")] * len(chunks)

    def observe(self, subset: BlockSubset, streams: int, seconds: float, took_ms: float, now: float) -> None:
        self.took.append((streams, took_ms))


def test_a_chunk_waits_from_when_its_samples_were_there(model: TorchRecognizer) -> None:
    watching, samples = Watching(), sound(1.0)
    stream = Stream(replace(model.stream(depth=watching).plan, clock=lambda: 100.0))
    stream.accept(samples[:6000], at=99.5)
    stream.accept(samples[6000:12000], at=99.9)
    assert watching.waited == [0.5, 0.1] and watching.took == [(1, 0.0)] * 2
    stream.reset()
    stream.accept(np.tile(samples, 4))  # at once: it has not come slower than it was spoken
    assert watching.waited[2:] == [0.0] * 12


def test_streams_that_share_a_rule_are_chosen_for_at_once(model: TorchRecognizer) -> None:
    watching = Watching()
    first = model.stream(depth=watching)
    streams = [first, first.another(), first.another()]
    for one in streams:
        one.feed(sound(0.5))
    found = step_streams(streams)
    assert len(watching.waited) == 1 and [streams for streams, _ in watching.took] == [3]
    other = Watching()
    lone = model.stream(depth=other)
    for one in (*streams, lone):
        one.feed(sound(0.5))
    step_streams([*streams, lone])  # the same blocks, so one dispatch, of which both rules hear
    assert watching.took[1:] == other.took and other.took[0][0] == 4
    assert {chunk.reason for results in found for result in results for chunk in result.chunks} <= {"watched"}
