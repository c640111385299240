"""Requests with a constraint: the depth that meets it, when a deeper pass is added, and what is stopped in time."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from layerdial import BlockSubset, UserError
from layerdial.audio.files import SAMPLE_RATE
from layerdial.ladder import Ladder, Rung
from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.runtime import Recognizer
from layerdial.runtime import recognizer as recognizer_module
from layerdial.runtime import scheduler as scheduler_module
from layerdial.runtime import watchdog as watchdog_module
from layerdial.runtime.profile import ThreadProfile
from layerdial.runtime.session import Cancel
from tiny_runtime import HALF_A_MINUTE, LADDER, LONG_AUDIO, NEVER_MS, SAMPLES, TEXT, controlled

pytest_plugins = ["tiny_export"]


@pytest.fixture
def honest(exported: Path) -> Recognizer:
    """One that believes something near the truth: such small networks need less than a millisecond."""
    return controlled(exported, {1: 0.2, 2: 0.4, 3: 0.6})


class Clock:
    """The time of requests: it stands still, but where a run of `slow` takes some."""

    def __init__(self) -> None:
        self.now = 1000.0

    def passes(self, seconds: float) -> None:
        self.now += seconds

    def slow(self, recognizer: Recognizer, seconds: float) -> Recognizer:
        """`recognizer`, every run of which takes that long from now on."""
        run = recognizer.decoding.run

        def slowly(*arguments: Any) -> Any:
            self.passes(seconds)
            return run(*arguments)

        recognizer.decoding.run = slowly  # type: ignore[method-assign]
        return recognizer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (recognizer_module, scheduler_module, watchdog_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


# ---------------------------------------------------------------------------------------------------------- constraints


def test_ample_time_runs_the_deepest(honest: Recognizer) -> None:
    transcript = honest.transcribe(SAMPLES, deadline_ms=NEVER_MS)
    assert (transcript.depth, transcript.text) == (3, TEXT)
    assert transcript.reason.startswith("deepest within ")
    assert transcript.chunks[0].reason == transcript.reason


def test_a_deadline_that_nothing_keeps_runs_the_shallowest_and_the_reason_says_so(
    honest: Recognizer, heavy: TorchRecognizer
) -> None:
    transcript = honest.transcribe(SAMPLES, deadline_ms=0.001)
    assert transcript.subset.key == LADDER[1]
    assert transcript.reason.startswith("shallowest: nothing keeps 0 ms, expected ")
    assert transcript.text == heavy.transcribe(SAMPLES, depth=1).text


@pytest.mark.parametrize(("target_rtf", "depth"), [(1e-6, 1), (0.275, 1), (0.5, 2), (1.0, 3), (10.0, 3)])
@pytest.mark.usefixtures("clock")
def test_the_deepest_with_that_real_time_factor_is_run(exported: Path, target_rtf: float, depth: int) -> None:
    recognizer = controlled(exported, {1: 100.0, 2: 250.0, 3: 500.0})
    transcript = recognizer.transcribe(SAMPLES, target_rtf=target_rtf)
    assert transcript.depth == depth
    assert ("deepest within" in transcript.reason) == (depth > 1)


@pytest.mark.parametrize(("max_cpu", "depth"), [(0.001, 1), (0.05, 1), (0.11, 2), (0.25, 3), (100.0, 3)])
def test_the_deepest_within_that_share_of_a_cpu_is_run(exported: Path, max_cpu: float, depth: int) -> None:
    recognizer = controlled(exported, {1: 20.0, 2: 50.0, 3: 100.0}, cpu_share=2.0)
    transcript = recognizer.transcribe(SAMPLES, max_cpu=max_cpu)
    assert transcript.depth == depth
    assert transcript.reason.startswith("shallowest: nothing keeps" if max_cpu == 0.001 else "deepest within")


def test_context_counts_as_computing_and_not_as_audio(exported: Path) -> None:
    """30 s are computed for 26 s of audio."""
    recognizer = controlled(exported, {1: 20.0, 2: 50.0, 3: 100.0})
    chunks = recognizer.transcribe(LONG_AUDIO, max_cpu=0.105).chunks
    assert [chunk.depth for chunk in chunks[1:-1]] == [2] * (len(chunks) - 2)
    assert recognizer.transcribe(SAMPLES, max_cpu=0.105).depth == 3


def test_without_a_promise_all_blocks_run_and_no_reason_is_needed(edge: Recognizer) -> None:
    transcript = edge.transcribe(SAMPLES)
    assert (transcript.depth, transcript.reason, transcript.text) == (3, "", TEXT)
    assert edge.transcribe(SAMPLES, subset=BlockSubset.from_key("100")).subset.key == "100"


def test_a_depth_that_does_no_better_is_not_run_for_a_deadline(copy: Path) -> None:
    rungs = (Rung(1, "010", 0.0, 0.2, 2, 10), Rung(2, "011", 0.0, 0.1, 1, 10), Rung(3, "111", 0.0, 0.3, 3, 10))
    Ladder(3, "wer", "dev", 10, rungs).save(copy / "ladder.json")
    recognizer = controlled(copy, {1: 0.2, 2: 0.4, 3: 0.6})
    assert recognizer.transcribe(SAMPLES, deadline_ms=NEVER_MS).depth == 2
    assert recognizer.transcribe(SAMPLES, max_cpu=100.0).depth == 2
    assert recognizer.transcribe(SAMPLES).depth == 3  # but it is what was asked for here


def test_chunks_may_differ_in_depth_under_a_deadline(exported: Path, clock: Clock) -> None:
    """It believes to need 1 s of time for 10 s of audio at depth 3, and learns that it is faster."""
    recognizer = clock.slow(controlled(exported, {1: 10.0, 2: 50.0, 3: 100.0}), 0.02)
    transcript = recognizer.transcribe(LONG_AUDIO, deadline_ms=60.0 * len(LONG_AUDIO) / SAMPLE_RATE)
    found = [chunk.depth for chunk in transcript.chunks]
    assert found[0] < found[-1] == 3 == transcript.depth
    assert transcript.reason == max(transcript.chunks, key=lambda chunk: chunk.depth).reason
    assert all(chunk.reason for chunk in transcript.chunks)


def test_a_measurement_for_want_of_a_profile_is_not_part_of_the_request(
    exported: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = Recognizer(exported, threads=1)
    measure = recognizer_module.measure_table

    def slowly(*arguments: Any, **options: Any) -> ThreadProfile:
        clock.passes(2.0)
        return measure(*arguments, **options)

    monkeypatch.setattr(recognizer_module, "measure_table", slowly)
    transcript = recognizer.transcribe(SAMPLES, deadline_ms=1500.0)
    assert transcript.depth == 3
    controller = recognizer.controller
    recognizer.transcribe(SAMPLES, target_rtf=1.0)
    assert recognizer.controller is controller


@pytest.mark.filterwarnings("error")  # of a thread that dies
@pytest.mark.parametrize("endless", [1e15, float("inf")])
@pytest.mark.parametrize("promise", ["deadline_ms", "target_rtf", "max_cpu"])
def test_an_endless_promise_runs_the_deepest(honest: Recognizer, promise: str, endless: float) -> None:
    assert honest.transcribe(SAMPLES, **{promise: endless}).depth == 3


# ----------------------------------------------------------------------------------------------------------- confidence


def test_confidence_begins_at_the_depth_that_is_asked_for(edge: Recognizer) -> None:
    sure = edge.transcribe(SAMPLES, depth=3, confidence=0.0, first_depth=2)
    assert sure.depth == 2 and sure.reason.startswith("depth 2, and sure of it")
    unsure = edge.transcribe(SAMPLES, depth=3, confidence=1.0, first_depth=2)
    assert unsure.depth == 3 and "as the depth 2 was not sure" in unsure.reason
    with pytest.raises(UserError, match="give confidence too"):
        edge.transcribe(SAMPLES, first_depth=2)


def test_a_sure_shallow_result_is_kept(honest: Recognizer, heavy: TorchRecognizer) -> None:
    transcript = honest.transcribe(SAMPLES, confidence=0.0)
    assert transcript.subset.key == LADDER[1] and transcript.text == heavy.transcribe(SAMPLES, depth=1).text
    assert transcript.reason.startswith("shallowest, and sure of it (")
    assert 0 < (transcript.chunks[0].confidence or 0) <= 1


def test_an_unsure_shallow_result_is_followed_by_all_blocks(honest: Recognizer) -> None:
    transcript = honest.transcribe(SAMPLES, confidence=1.0)
    assert (transcript.depth, transcript.text) == (3, TEXT)
    assert transcript.reason.startswith("all blocks, as the shallowest was not sure (")


@pytest.mark.parametrize("asked", [{"depth": 2}, {"subset": BlockSubset.from_key("110")}], ids=["depth", "subset"])
def test_an_unsure_shallow_result_is_followed_by_what_was_asked_for(honest: Recognizer, asked: dict[str, Any]) -> None:
    transcript = honest.transcribe(SAMPLES, **asked, confidence=1.0)
    assert transcript.subset == (asked.get("subset") or honest.subset(2))
    assert transcript.reason.startswith("depth 2 was asked for, as the shallowest was not sure")
    assert honest.transcribe(SAMPLES, **asked, confidence=0.0).depth == 1


def test_an_unsure_shallow_result_is_kept_where_no_time_is_left(honest: Recognizer, heavy: TorchRecognizer) -> None:
    transcript = honest.transcribe(SAMPLES, confidence=1.0, deadline_ms=0.01)
    assert transcript.depth == 1 and transcript.text == heavy.transcribe(SAMPLES, depth=1).text
    assert "not sure" in transcript.reason and "nothing deeper keeps" in transcript.reason


def test_confidence_and_a_deadline_go_together(honest: Recognizer) -> None:
    transcript = honest.transcribe(SAMPLES, confidence=1.0, deadline_ms=NEVER_MS)
    assert transcript.depth == 3
    assert transcript.reason.startswith("deepest within") and "as the shallowest was not sure" in transcript.reason
    assert honest.transcribe(SAMPLES, confidence=0.0, deadline_ms=NEVER_MS).depth == 1


def test_a_share_of_the_cpu_counts_both_runs(exported: Path) -> None:
    recognizer = controlled(exported, {1: 20.0, 2: 50.0, 3: 100.0})
    assert recognizer.transcribe(SAMPLES, max_cpu=0.105).depth == 3
    assert recognizer.transcribe(SAMPLES, max_cpu=0.105, confidence=1.0).depth == 2
    assert recognizer.transcribe(SAMPLES, max_cpu=0.13, confidence=1.0).depth == 3


def test_deeper_is_surer_of_the_words_it_learnt(edge: Recognizer) -> None:
    shallow, deep = (edge.transcribe(SAMPLES, depth=depth).chunks[0].confidence for depth in (1, 3))
    assert shallow is not None and deep is not None and 0 < shallow < deep <= 1


# ------------------------------------------------------------------------------------------------------------- stopping


def slowed(recognizer: Recognizer, subset: BlockSubset, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every run of `subset` goes on until it is cancelled; the keys of what was run."""
    posteriors, ran = recognizer.session.posteriors, []

    def run(inputs: np.ndarray, lengths_B: np.ndarray, wanted: BlockSubset, cancel: Cancel | None = None) -> Any:
        ran.append(wanted.key)
        while True:
            found = posteriors(inputs, lengths_B, wanted, cancel)
            if wanted != subset or cancel is None:
                return found

    monkeypatch.setattr(recognizer.session, "posteriors", run)
    return ran


@pytest.mark.medium
def test_what_takes_longer_than_foreseen_is_stopped_and_the_shallowest_runs(
    exported: Path, heavy: TorchRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = controlled(exported, {1: 0.01, 2: 0.02, 3: 0.03})
    ran = slowed(recognizer, BlockSubset.full(3), monkeypatch)
    transcript = recognizer.transcribe(SAMPLES, deadline_ms=500.0)
    assert ran == [LADDER[3], LADDER[1]]
    assert transcript.subset.key == LADDER[1] and transcript.text == heavy.transcribe(SAMPLES, depth=1).text
    assert transcript.reason.startswith("shallowest: depth 3 was stopped after ")
    assert recognizer.controller.load.slowdown(0.0) > 1.5


@pytest.mark.medium
def test_a_deeper_run_that_takes_too_long_leaves_the_shallow_result(
    exported: Path, heavy: TorchRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = controlled(exported, {1: 0.01, 2: 0.02, 3: 0.03})
    ran = slowed(recognizer, BlockSubset.full(3), monkeypatch)
    transcript = recognizer.transcribe(SAMPLES, confidence=1.0, deadline_ms=500.0)
    assert ran == [LADDER[1], LADDER[3]]  # and not the shallowest again
    assert transcript.subset.key == LADDER[1] and transcript.text == heavy.transcribe(SAMPLES, depth=1).text
    assert transcript.reason.startswith("shallowest: depth 3 was stopped after ")


def test_costs_that_lie_are_unlearnt(exported: Path, clock: Clock) -> None:
    """It believes to be thousands of times faster than it is."""
    recognizer = clock.slow(controlled(exported, {1: 2e-5, 2: 4e-5, 3: 6e-5}, features_ms=1e-5), 0.03)
    for _ in range(12):
        recognizer.transcribe(HALF_A_MINUTE, deadline_ms=20.0)
    assert recognizer.controller.load.slowdown(0.0) > 30
