"""A pool over the exported model of the tones: answers, windows in turns, cancellation, closing, figures."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path

import numpy as np
import pytest

from layerdial.audio.files import SAMPLE_RATE
from layerdial.errors import UserError
from layerdial.recognition.calibration import Calibration, Curve
from layerdial.request import Request
from layerdial.runtime import Recognizer
from layerdial.runtime.manifest import Manifest
from layerdial.serving.jobs import Job, Refused, Served
from layerdial.serving.pool import Pool
from tiny_runtime import LONG_AUDIO, NEVER_MS, SAMPLES, TEXT, controlled

pytest_plugins = ["tiny_export"]


@pytest.fixture
def pool(edge: Recognizer) -> Iterator[Pool]:
    with Pool(edge, workers=2) as made:
        yield made


@pytest.fixture
def stuck(exported: Path) -> Iterator[Stuck]:
    """A pool with one worker, whose first job stays in its first window until it is let go."""
    recognizer = controlled(exported, {1: 0.001, 3: 0.002})
    pool = Stuck(recognizer, workers=1)
    yield pool
    pool.let_go.set()
    pool.close()


class Stuck(Pool):
    """See the fixture."""

    def __init__(self, recognizer: Recognizer, workers: int) -> None:
        super().__init__(recognizer, workers)
        self.let_go, self.is_in = threading.Event(), threading.Event()
        features = recognizer.features

        class Waiting:
            def __getattr__(self, name: str) -> object:
                return getattr(features, name)

            def __call__(waiting, samples: np.ndarray) -> np.ndarray:
                self.is_in.set()
                assert self.let_go.wait(20)
                return features(samples)

        recognizer.features = Waiting()

    def hold(self) -> Future[Served]:
        held = self.submit(Job(SAMPLES))
        assert self.is_in.wait(20)
        return held


def test_an_answer_says_its_depth_and_why(pool: Pool, edge: Recognizer) -> None:
    served = pool.submit(Job(SAMPLES, deadline_ms=NEVER_MS)).result()
    assert served.transcript.text == TEXT == edge.transcribe(SAMPLES).text
    assert (served.depth, served.reason, served.late) == (3, "deepest: nothing else waits", False)
    assert 0 <= served.waited_ms <= served.took_ms and served.deadline_ms == pytest.approx(NEVER_MS)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_depth_that_is_asked_for_is_kept(pool: Pool, edge: Recognizer, depth: int) -> None:
    served = pool.submit(Job(SAMPLES, depth=depth)).result()
    assert (served.depth, served.reason) == (depth, f"depth {depth} was asked for")
    assert served.transcript.text == edge.transcribe(SAMPLES, depth).text
    assert served.transcript.subset == edge.subset(depth)


def test_many_jobs_of_many_threads_have_their_own_answers(pool: Pool, edge: Recognizer) -> None:
    lengths = [SAMPLE_RATE + 800 * i for i in range(24)]
    futures: dict[int, Future[Served]] = {}

    def submit(some: list[int]) -> None:
        for length in some:
            futures[length] = pool.submit(Job(SAMPLES[:length], depth=3, deadline_ms=60_000))

    threads = [threading.Thread(target=submit, args=(lengths[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for length in lengths:
        assert futures[length].result().transcript.text == edge.transcribe(SAMPLES[:length]).text
    figures = pool.metrics()
    assert (figures.submitted, figures.answered, figures.queued, figures.running) == (24, 24, 0, 0)
    assert figures.by_depth == {3: 24} and figures.workers == 2
    assert figures.audio_seconds == pytest.approx(sum(min(n, len(SAMPLES)) for n in lengths) / SAMPLE_RATE)
    assert figures.latency_ms.keys() == {0.5, 0.95, 0.99} and figures.load >= 1


def test_words_and_beams_come_as_one_recogniser_gives_them(pool: Pool, edge: Recognizer) -> None:
    request = Request(hotwords=["high"], beams=4)
    served = pool.submit(Job(SAMPLES, request, depth=2)).result()
    assert served.transcript.text == edge.answer(SAMPLES, Request(depth=2, hotwords=["high"], beams=4)).text


def test_words_have_calibrated_confidence(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "edge")
    raw = Recognizer(folder).answer(SAMPLES, Request(depth=2, words=True)).words
    curve = Curve(depth=2, slope=0.5, offset=-1.0, words=9, error_before=0.1, error_after=0.1)
    Calibration(Manifest.load(folder).model_id, "dev", (curve,)).save(folder)
    with Pool(Recognizer(folder)) as pool:
        served = pool.submit(Job(SAMPLES, Request(words=True), depth=2)).result()
    assert [word.confidence for word in served.transcript.words] == [curve(word.confidence) for word in raw] != []


@pytest.mark.medium
def test_a_long_file_lets_a_short_job_pass(stuck: Stuck) -> None:
    order = list[str]()
    long = stuck.submit(Job(LONG_AUDIO, deadline_ms=NEVER_MS))
    assert stuck.is_in.wait(20)
    short = stuck.submit(Job(SAMPLES, deadline_ms=60_000))
    long.add_done_callback(lambda _: order.append("long"))
    short.add_done_callback(lambda _: order.append("short"))
    stuck.let_go.set()
    wait([long, short])
    assert order == ["short", "long"] and len(long.result().transcript.chunks) > 2
    chunks = long.result().transcript.chunks
    assert all(chunk.reason for chunk in chunks) and chunks[-1].end == pytest.approx(len(LONG_AUDIO) / SAMPLE_RATE)


@pytest.mark.medium
def test_a_long_file_has_the_text_that_one_recogniser_writes(pool: Pool, edge: Recognizer) -> None:
    served = pool.submit(Job(LONG_AUDIO, depth=3, deadline_ms=NEVER_MS)).result()
    assert served.transcript.text == edge.transcribe(LONG_AUDIO).text


def test_what_waits_can_be_cancelled_and_leaves_its_place(stuck: Stuck) -> None:
    held, waits = stuck.hold(), stuck.submit(Job(SAMPLES))
    assert stuck.metrics().queued == 1 and waits.cancel()
    figures = stuck.metrics()
    assert (figures.queued, figures.cancelled, figures.running) == (0, 1, 1)
    stuck.let_go.set()
    assert held.result().transcript.text == TEXT
    assert wait([held, waits], timeout=20).not_done == set()
    with pytest.raises(CancelledError):
        waits.result()


def test_what_runs_can_be_cancelled_and_frees_its_worker(stuck: Stuck) -> None:
    held, after = stuck.hold(), stuck.submit(Job(SAMPLES, deadline_ms=60_000))
    assert held.cancel() and stuck.metrics().running == 1
    stuck.let_go.set()
    assert after.result().transcript.text == TEXT
    figures = stuck.metrics()
    assert (figures.submitted, figures.answered, figures.cancelled) == (2, 1, 1) and figures.by_depth == {3: 1}


def test_closing_finishes_what_was_taken_and_takes_no_more(edge: Recognizer) -> None:
    pool = Pool(edge, workers=1)
    futures = [pool.submit(Job(SAMPLES, deadline_ms=60_000)) for _ in range(5)]
    pool.close()
    assert all(future.done() and future.result().transcript.text == TEXT for future in futures)
    with pytest.raises(Refused, match="the server is stopping") as refused:
        pool.submit(Job(SAMPLES))
    assert refused.value.retry_after_s is None
    figures = pool.metrics()
    assert (figures.submitted, figures.answered, figures.refused) == (6, 5, 1)


def test_closing_at_once_cancels_what_is_left(stuck: Stuck) -> None:
    futures = [stuck.hold(), *(stuck.submit(Job(SAMPLES)) for _ in range(3))]
    threading.Timer(0.05, stuck.let_go.set).start()
    stuck.close(wait=False)
    assert all(future.cancelled() for future in futures)
    figures = stuck.metrics()
    assert (figures.submitted, figures.cancelled, figures.queued, figures.running) == (4, 4, 0, 0)


def test_a_crowd_is_answered_shallow_and_the_rest_refused_at_once(exported: Path) -> None:
    """The recogniser believes that a second takes it 30, 50 or 70 ms, which is far more than it does."""
    recognizer = controlled(exported, {depth: 20.0 * depth for depth in (1, 2, 3)}, features_ms=10.0)
    with Pool(recognizer, workers=1) as pool:
        seconds, futures, refusals = len(SAMPLES) / SAMPLE_RATE, list[Future[Served]](), list[Refused]()
        with pool._changed:  # so that none runs before all are there
            for _ in range(30):
                try:
                    futures.append(pool.submit(Job(SAMPLES, deadline_ms=600.0 * seconds)))
                except Refused as refused:
                    refusals.append(refused)
        assert 15 <= len(futures) <= 20 and all(0 < (one.retry_after_s or 0) < 10 for one in refusals)
        depths = [future.result().depth for future in futures]
    assert min(depths) == 1 and pool.metrics().refused == len(refusals)


def test_no_job_is_shallower_than_the_pool_allows_unless_it_asks_for_it(exported: Path) -> None:
    recognizer = controlled(exported, {depth: 200.0 * depth for depth in (1, 2, 3)}, features_ms=20.0)
    with Pool(recognizer, workers=1, min_depth=2) as pool:
        seconds = len(SAMPLES) / SAMPLE_RATE
        tight = 480.0 * seconds  # enough for depth 2
        assert pool.submit(Job(SAMPLES, deadline_ms=tight)).result().depth == 2
        with pytest.raises(Refused, match="at depth 2, more than the deadline"):
            pool.submit(Job(SAMPLES, deadline_ms=300.0 * seconds))
        assert pool.submit(Job(SAMPLES, depth=1, deadline_ms=300.0 * seconds)).result().depth == 1
        with pytest.raises(Refused, match="at depth 3, more than the deadline"):
            pool.submit(Job(SAMPLES, min_depth=3, deadline_ms=tight))


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (Job("nowhere.wav"), "nowhere.wav"),
        (Job(SAMPLES, depth=4), "depth"),
        (Job(SAMPLES, min_depth=9), "depth"),
        (Job(SAMPLES, Request(language="de")), "language is for encoder-decoder models"),
    ],
)
def test_a_mistake_is_said_at_once(pool: Pool, job: Job, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        pool.submit(job)
    assert "\n" not in str(refused.value) and pool.metrics().submitted == 0


def test_samples_that_are_no_audio_are_the_fault_of_their_job_alone(pool: Pool) -> None:
    bad = pool.submit(Job(np.full(SAMPLE_RATE, np.nan, np.float32)))
    good = pool.submit(Job(SAMPLES))
    with pytest.raises(UserError, match="not finite"):
        bad.result()
    assert good.result().transcript.text == TEXT
    figures = pool.metrics()
    assert (figures.submitted, figures.failed, figures.answered) == (2, 1, 1)


def test_a_pool_of_no_workers_is_refused(edge: Recognizer) -> None:
    with pytest.raises(UserError, match="workers is 0; give 1 or more"):
        Pool(edge, workers=0)
