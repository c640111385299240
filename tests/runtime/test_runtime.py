"""Exported models on the device: the same texts as torch, promises about time, many threads, and what goes wrong."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import torch

from layerdial import BlockSubset, UserError, load_model
from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.windows import WINDOW_SECONDS, windows
from layerdial.data.batching import FeatureBatches
from layerdial.evaluation.evaluate import evaluate
from layerdial.ladder import Ladder, Rung
from layerdial.models.cost import subset_cost
from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.runtime import Recognizer, is_exported
from layerdial.runtime import recognizer as recognizer_module
from layerdial.runtime.controller import CostTable, DepthController, worthwhile
from layerdial.runtime.profile import FILE as PROFILE
from layerdial.runtime.profile import Device, Profile, ThreadProfile, pareto
from layerdial.runtime.profiling import profile_device
from layerdial.runtime.session import Cancel, Cancelled
from tiny import sentences, speak

pytest_plugins = ["tiny_export"]

TEXT = "low high middle high low low"
SAMPLES = speak(TEXT, seed=77)
EVERY_SUBSET = [BlockSubset.from_key(key) for key in ("001", "010", "100", "011", "101", "110", "111")]
LADDER = {1: "010", 2: "011", 3: "111"}
NEVER_MS = 1e9


@pytest.fixture(scope="session")
def heavy(laddered: Path) -> TorchRecognizer:
    """The torch model that `edge` was made of."""
    return load_model(laddered)


@pytest.fixture(scope="session")
def long_audio() -> np.ndarray:
    """About 100 s of words."""
    return np.concatenate([speak(text, seed) for seed, text in enumerate(sentences(75, seed=5))])


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """An exported folder to damage."""
    return shutil.copytree(exported, tmp_path / "copy")


def controlled(folder: Path, network_ms: dict[int, float], features_ms: float = 0.01, cpu_share: float = 1.0) -> Any:
    """A recogniser that believes to need these milliseconds a second of audio."""
    recognizer = Recognizer(folder, threads=1)
    seconds = (1.0, 10.0)
    rows = {depth: tuple(ms * s for s in seconds) for depth, ms in network_ms.items()}
    table = CostTable(seconds, tuple(features_ms * s for s in seconds), rows, cpu_share)
    recognizer._controller = DepthController(table, worthwhile(recognizer.ladder, recognizer.n_blocks))
    return recognizer


@pytest.fixture
def honest(exported: Path) -> Recognizer:
    """One that believes something near the truth: such small networks need less than a millisecond."""
    return controlled(exported, {1: 0.2, 2: 0.4, 3: 0.6})


@pytest.fixture
def heard(edge: Recognizer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape of every input that `edge` runs from now on."""
    shapes: list[tuple[int, ...]] = []
    posteriors = edge.session.posteriors

    def note(inputs: np.ndarray, *rest: Any) -> Any:
        shapes.append(inputs.shape)
        return posteriors(inputs, *rest)

    monkeypatch.setattr(edge.session, "posteriors", note)
    return shapes


# ------------------------------------------------------------------------------------------------- same as torch


@pytest.mark.parametrize("subset", EVERY_SUBSET, ids=lambda subset: subset.key)
def test_dev_texts_are_those_of_torch(
    edge: Recognizer, heavy: TorchRecognizer, corpus: Any, subset: BlockSubset
) -> None:
    batches = FeatureBatches(corpus.dev, edge.features, workers=0)
    ours, theirs = (evaluate(model, batches, subset) for model in (edge, heavy))
    assert ours.hypotheses == theirs.hypotheses and len(ours.hypotheses) == 5
    assert subset.depth < 3 or ours.wer.errors == 0


def test_the_ladder_beside_the_graph_chooses_the_blocks(edge: Recognizer, heavy: TorchRecognizer) -> None:
    for depth, key in LADDER.items():
        assert edge.subset(depth).key == heavy.subset(depth).key == key
        assert edge.transcribe(SAMPLES, depth=depth).text == heavy.transcribe(SAMPLES, depth=depth).text
        assert edge.transcribe(SAMPLES, depth=depth).subset.key == key
    assert edge.subset() == BlockSubset.full(3)


def test_without_a_ladder_the_blocks_are_spread_evenly(copy: Path) -> None:
    (copy / "ladder.json").unlink()
    recognizer = Recognizer(copy, threads=1)
    assert recognizer.ladder is None
    assert [recognizer.subset(depth).key for depth in (1, 2, 3)] == ["100", "101", "111"]
    assert recognizer.transcribe(SAMPLES, deadline_ms=NEVER_MS).depth == 3


def test_posteriors_are_those_of_torch(edge: Recognizer, heavy: TorchRecognizer) -> None:
    inputs = edge.features(SAMPLES)
    lengths_B = np.array([len(inputs)])
    for subset in EVERY_SUBSET:
        ours, frames_B = edge.session.posteriors(inputs[None], lengths_B, subset)
        with torch.inference_mode():
            theirs, lengths, _ = heavy.network(torch.from_numpy(inputs)[None], torch.from_numpy(lengths_B), subset)
        assert frames_B.tolist() == lengths.tolist() == [ours.shape[1]]
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)


def test_features_are_bit_for_bit_those_of_torch(edge: Recognizer, heavy: TorchRecognizer) -> None:
    np.testing.assert_array_equal(edge.features(SAMPLES), heavy.features(SAMPLES))
    assert edge.features == heavy.features


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_file_and_an_array_give_the_same_text(edge: Recognizer, tmp_path: Path, depth: int) -> None:
    soundfile.write(tmp_path / "a.wav", SAMPLES, SAMPLE_RATE, subtype="FLOAT")
    from_file, from_array = (edge.transcribe(audio, depth) for audio in (tmp_path / "a.wav", SAMPLES))
    assert (from_file.text, from_file.subset) == (from_array.text, from_array.subset)
    assert edge.transcribe(str(tmp_path / "a.wav"), depth).text == from_array.text
    assert edge.transcribe(SAMPLES.astype(np.float64), depth).text == from_array.text
    assert from_file.seconds == pytest.approx(len(SAMPLES) / SAMPLE_RATE) and from_file.rtf > 0


def test_stereo_at_96_khz_is_understood(edge: Recognizer, tmp_path: Path) -> None:
    samples = speak(TEXT, seed=77, rate=96000)
    soundfile.write(tmp_path / "a.wav", np.stack([samples, 0.5 * samples], axis=1), 96000)
    transcript = edge.transcribe(tmp_path / "a.wav", deadline_ms=NEVER_MS)
    assert transcript.text == TEXT
    assert transcript.seconds == pytest.approx(len(samples) / 96000, abs=0.001)


@pytest.mark.parametrize("depth", [1, 3])
def test_a_batch_equals_one_by_one(edge: Recognizer, depth: int) -> None:
    audios = [speak(text, seed) for seed, text in enumerate(sentences(9, seed=3, words=(1, 9)))]
    assert len({len(audio) for audio in audios}) > 4
    texts = edge.transcribe_batch(audios, depth=depth)
    assert texts == [edge.transcribe(audio, depth=depth).text for audio in audios]
    assert edge.transcribe_batch([]) == []


def test_a_batch_of_audio_above_thirty_seconds_is_refused(edge: Recognizer, long_audio: np.ndarray) -> None:
    with pytest.raises(UserError, match="a batch takes audio of at most 30 s each; transcribe cuts longer audio"):
        edge.transcribe_batch([SAMPLES, long_audio])


@pytest.mark.parametrize("n_samples", [1, 79, 80, 160, 800, 1600])
def test_a_moment_of_audio_has_a_transcript(edge: Recognizer, n_samples: int) -> None:
    transcript = edge.transcribe(np.full(n_samples, 0.1, np.float32), deadline_ms=NEVER_MS)
    assert len(transcript.text.split()) <= 1 and transcript.seconds == n_samples / SAMPLE_RATE


def test_silence_has_no_words_and_no_doubt(edge: Recognizer) -> None:
    transcript = edge.transcribe(np.zeros(3 * SAMPLE_RATE, np.float32), confidence=1.0)
    assert transcript.text == "" and transcript.chunks[0].confidence == 1.0
    assert transcript.depth == 1


def test_costs_are_those_that_torch_counts(edge: Recognizer, heavy: TorchRecognizer) -> None:
    for subset in EVERY_SUBSET:
        ours, theirs = edge.cost(subset), subset_cost(heavy.network, subset)
        assert ours.parameters == theirs.parameters
        assert ours.macs_per_second == pytest.approx(theirs.macs_per_second, rel=1e-6)


def test_warming_up_changes_nothing(edge: Recognizer) -> None:
    before = edge.transcribe(SAMPLES).text
    edge.warm_up(1.0)
    assert edge.transcribe(SAMPLES).text == before


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_number_of_threads_changes_no_text(exported: Path, edge: Recognizer, threads: int) -> None:
    recognizer = Recognizer(exported, threads)
    assert recognizer.threads == threads
    assert recognizer.transcribe(SAMPLES).text == edge.transcribe(SAMPLES).text == TEXT


# ----------------------------------------------------------------------------------------------------- long audio


@pytest.mark.parametrize("depth", [1, 3])
def test_long_audio_has_the_text_of_torch(
    edge: Recognizer, heavy: TorchRecognizer, long_audio: np.ndarray, depth: int
) -> None:
    assert len(long_audio) > 70 * SAMPLE_RATE
    ours, theirs = edge.transcribe(long_audio, depth=depth), heavy.transcribe(long_audio, depth=depth)
    assert ours.text == theirs.text and len(ours.text.split()) > 150
    assert ours.seconds == theirs.seconds
    assert [(c.start, c.end, c.subset) for c in ours.chunks] == [(c.start, c.end, c.subset) for c in theirs.chunks]


def test_no_input_is_longer_than_thirty_seconds(
    edge: Recognizer, long_audio: np.ndarray, heard: list[tuple[int, ...]]
) -> None:
    edge.transcribe(long_audio)
    assert len(heard) == len(list(windows(long_audio)))
    assert max(frames for _, frames, _ in heard) == 100 * WINDOW_SECONDS
    assert {batch for batch, _, _ in heard} == {1}


@pytest.mark.parametrize("seconds", [1.0, 29.99, 30.0, 30.01, 56.2, 100.7])
def test_chunks_cover_the_audio_without_a_gap(edge: Recognizer, seconds: float) -> None:
    audio = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
    chunks = edge.transcribe(audio, depth=1).chunks
    assert chunks[0].start == 0 and chunks[-1].end == len(audio) / SAMPLE_RATE
    assert all(a.end == b.start for a, b in itertools.pairwise(chunks))
    assert all(chunk.start < chunk.end for chunk in chunks)


# ------------------------------------------------------------------------------------------------------- promises


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
def test_the_deepest_with_that_real_time_factor_is_run(exported: Path, target_rtf: float, depth: int) -> None:
    recognizer = controlled(exported, {1: 100.0, 2: 250.0, 3: 500.0})  # so slow that the truth does not matter
    transcript = recognizer.transcribe(SAMPLES, target_rtf=target_rtf)
    assert transcript.depth == depth
    assert ("deepest within" in transcript.reason) == (depth > 1)


@pytest.mark.parametrize(("max_cpu", "depth"), [(0.001, 1), (0.05, 1), (0.11, 2), (0.25, 3), (100.0, 3)])
def test_the_deepest_within_that_share_of_a_cpu_is_run(exported: Path, max_cpu: float, depth: int) -> None:
    recognizer = controlled(exported, {1: 20.0, 2: 50.0, 3: 100.0}, cpu_share=2.0)
    transcript = recognizer.transcribe(SAMPLES, max_cpu=max_cpu)
    assert transcript.depth == depth
    assert transcript.reason.startswith("shallowest: nothing keeps" if max_cpu == 0.001 else "deepest within")


def test_context_counts_as_computing_and_not_as_audio(exported: Path, long_audio: np.ndarray) -> None:
    """30 s are computed for 26 s of audio."""
    recognizer = controlled(exported, {1: 20.0, 2: 50.0, 3: 100.0})
    chunks = recognizer.transcribe(long_audio, max_cpu=0.105).chunks
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


def test_chunks_may_differ_in_depth_under_a_deadline(exported: Path, long_audio: np.ndarray) -> None:
    """It believes to need 1 s of time for 10 s of audio at depth 3, and learns that it is faster."""
    recognizer = controlled(exported, {1: 10.0, 2: 50.0, 3: 100.0})
    transcript = recognizer.transcribe(long_audio, deadline_ms=60.0 * len(long_audio) / SAMPLE_RATE)
    found = [chunk.depth for chunk in transcript.chunks]
    assert found[0] < found[-1] == 3 == transcript.depth
    assert transcript.reason == max(transcript.chunks, key=lambda chunk: chunk.depth).reason
    assert all(chunk.reason for chunk in transcript.chunks)


def test_a_measurement_for_want_of_a_profile_is_not_part_of_the_request(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = Recognizer(exported, threads=1)
    measure = recognizer_module.measure_table

    def slowly(*arguments: Any, **options: Any) -> ThreadProfile:
        time.sleep(2.0)
        return measure(*arguments, **options)

    monkeypatch.setattr(recognizer_module, "measure_table", slowly)
    transcript = recognizer.transcribe(SAMPLES, deadline_ms=1500.0)
    assert transcript.depth == 3
    controller = recognizer.controller
    recognizer.transcribe(SAMPLES, target_rtf=1.0)
    assert recognizer.controller is controller


def test_with_a_profile_the_first_request_finds_everything_warm(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(exported, tmp_path / "edge")
    profile_device(tmp_path / "edge", (1,), 1.0).save(tmp_path / "edge", None, 3)
    recognizer = Recognizer(tmp_path / "edge", threads=1)
    ran: list[str] = []
    run = recognizer.run

    def remember(inputs: Any, subset: BlockSubset, *rest: Any) -> Any:
        ran.append(subset.key)
        return run(inputs, subset, *rest)

    monkeypatch.setattr(recognizer, "run", remember)
    recognizer.transcribe(SAMPLES, deadline_ms=NEVER_MS)
    assert ran == ["111", "111"]  # the first is for nobody


def test_without_a_number_of_threads_the_fastest_of_the_profile_is_taken(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "edge")
    profile = profile_device(tmp_path / "edge", (1, 2), 1.0)
    profile.save(tmp_path / "edge", None, 3)
    assert Recognizer(tmp_path / "edge").threads == profile.best_threads()


def test_others_get_their_turn_between_the_windows_of_a_long_file(edge: Recognizer) -> None:
    """A slot is taken a window, not a file: nothing holds one while the next window is read."""
    free: list[int] = []
    hold, features = edge._slots, edge.features

    def windows_of(audio: np.ndarray) -> np.ndarray:
        free.append(hold._value)
        return features(audio)

    edge.features = windows_of  # type: ignore[assignment]
    windows_of.samples_per_frame = features.samples_per_frame  # type: ignore[attr-defined]
    try:
        before = hold._value
        edge.transcribe(np.zeros(70 * SAMPLE_RATE, np.float32) + 0.01, depth=1)
    finally:
        edge.features = features
    assert free == [before - 1] * 3 and hold._value == before


@pytest.mark.parametrize("loud", [200.0, 32767.0, 1e30])
def test_samples_that_were_not_scaled_are_refused(edge: Recognizer, loud: float) -> None:
    with pytest.raises(UserError, match=r"must lie within \[-1, 1\]"):
        edge.transcribe(np.array([0.0, loud, 0.1]))


def test_confidence_begins_at_the_depth_that_is_asked_for(edge: Recognizer) -> None:
    sure = edge.transcribe(SAMPLES, depth=3, confidence=0.0, first_depth=2)
    assert sure.depth == 2 and sure.reason.startswith("depth 2, and sure of it")
    unsure = edge.transcribe(SAMPLES, depth=3, confidence=1.0, first_depth=2)
    assert unsure.depth == 3 and "as the depth 2 was not sure" in unsure.reason
    with pytest.raises(UserError, match="give confidence too"):
        edge.transcribe(SAMPLES, first_depth=2)


# ----------------------------------------------------------------------------------------------------- confidence


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
    assert "not sure" in transcript.reason and "nothing keeps" in transcript.reason


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


# ------------------------------------------------------------------------------------------------------- stopping


@pytest.fixture(scope="session")
def slow_audio() -> np.ndarray:
    """30 s: some tens of milliseconds even for a tiny network."""
    return np.concatenate([speak(text, seed) for seed, text in enumerate(sentences(30, seed=5))])[: 30 * SAMPLE_RATE]


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


def test_a_run_that_is_cancelled_by_another_thread_ends(edge: Recognizer) -> None:
    inputs = np.tile(edge.features(SAMPLES), (10, 30, 1))
    lengths_B = np.full(len(inputs), inputs.shape[1])
    for delay in (0.0, 0.005, 0.02):
        cancel = Cancel()
        timer = threading.Timer(delay, cancel)
        timer.start()
        with pytest.raises(Cancelled):
            for _ in range(1000):
                edge.session.posteriors(inputs, lengths_B, BlockSubset.full(3), cancel)
        timer.join()
    assert edge.transcribe(SAMPLES).text == TEXT


def test_a_cancel_before_the_run_stops_it(edge: Recognizer) -> None:
    cancel = Cancel()
    cancel()
    with pytest.raises(Cancelled):
        edge.session.posteriors(edge.features(SAMPLES)[None], np.array([204]), BlockSubset.full(3), cancel)


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


def test_a_deeper_run_that_takes_too_long_leaves_the_shallow_result(
    exported: Path, heavy: TorchRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = controlled(exported, {1: 0.01, 2: 0.02, 3: 0.03})
    ran = slowed(recognizer, BlockSubset.full(3), monkeypatch)
    transcript = recognizer.transcribe(SAMPLES, confidence=1.0, deadline_ms=500.0)
    assert ran == [LADDER[1], LADDER[3]]  # and not the shallowest again
    assert transcript.subset.key == LADDER[1] and transcript.text == heavy.transcribe(SAMPLES, depth=1).text
    assert transcript.reason.startswith("shallowest: depth 3 was stopped after ")


def test_costs_that_lie_are_unlearnt(exported: Path, slow_audio: np.ndarray) -> None:
    """It believes to be thousands of times faster than it is."""
    recognizer = controlled(exported, {1: 2e-5, 2: 4e-5, 3: 6e-5}, features_ms=1e-5)
    for _ in range(12):
        recognizer.transcribe(slow_audio, deadline_ms=20.0)
    assert recognizer.controller.load.slowdown(0.0) > 30


# -------------------------------------------------------------------------------------------------------- threads


def test_64_threads_on_one_recogniser_hear_what_one_hears(edge: Recognizer) -> None:
    audios = [speak(text, seed) for seed, text in enumerate(sentences(16, seed=8, words=(1, 9)))]
    expected = {depth: [edge.transcribe(audio, depth=depth).text for audio in audios] for depth in (1, 2, 3)}
    start = threading.Barrier(64)

    def ask(i: int) -> list[tuple[int, str]]:
        start.wait()
        return [(d, edge.transcribe(audios[(i + d) % 16], depth=d).text) for d in (1, 2, 3)]

    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(ask, range(64)))
    for i, some in enumerate(found):
        assert some == [(d, expected[d][(i + d) % 16]) for d in (1, 2, 3)]


def test_64_threads_with_deadlines_on_a_new_recogniser_get_right_answers(exported: Path, edge: Recognizer) -> None:
    """All of them want the first measurement at once."""
    recognizer = Recognizer(exported, threads=1)
    expected = {depth: edge.transcribe(SAMPLES, depth=depth).text for depth in (1, 2, 3)}
    start = threading.Barrier(64)

    def ask(i: int) -> Any:
        start.wait()
        return recognizer.transcribe(SAMPLES, deadline_ms=(0.01, 5.0, 50.0, NEVER_MS)[i % 4])

    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(ask, range(64)))
    assert all(transcript.text == expected[transcript.depth] and transcript.reason for transcript in found)
    assert {transcript.depth for transcript in found[3::4]} == {3}
    assert {transcript.depth for transcript in found[0::4]} == {1}


def test_a_request_that_fails_leaves_room_for_others(edge: Recognizer) -> None:
    for _ in range(20):
        with pytest.raises(UserError):
            edge.transcribe(np.array([0.0, np.nan]))
        with pytest.raises(UserError):
            edge.transcribe_batch([SAMPLES], subset=BlockSubset.full(8))
    assert edge.transcribe(SAMPLES).text == TEXT


# ------------------------------------------------------------------------------------------------ wrong arguments


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"deadline_ms": 5, "target_rtf": 1}, "give one of deadline_ms, target_rtf, not 2"),
        ({"depth": 1, "deadline_ms": 5}, "give one of depth, deadline_ms, not 2"),
        ({"depth": 1, "subset": BlockSubset.full(3)}, "give one of depth, subset, not 2"),
        ({"max_cpu": 1, "target_rtf": 1, "depth": 1}, "give one of depth, target_rtf, max_cpu, not 3"),
        ({"deadline_ms": 0}, "deadline_ms is 0; give a number above 0"),
        ({"deadline_ms": -1.5}, "deadline_ms is -1.5; give a number above 0"),
        ({"deadline_ms": float("nan")}, "deadline_ms is nan; give a number above 0"),
        ({"target_rtf": 0.0}, r"target_rtf is 0\.0; give a number above 0"),
        ({"target_rtf": float("nan")}, "target_rtf is nan; give a number above 0"),
        ({"max_cpu": -1}, "max_cpu is -1; give a number above 0"),
        ({"confidence": 1.1}, r"confidence is 1\.1; give a number from 0 to 1"),
        ({"confidence": -0.1}, r"confidence is -0\.1; give a number from 0 to 1"),
        ({"confidence": float("nan")}, "confidence is nan; give a number from 0 to 1"),
        ({"depth": 0}, "depth 0 does not exist in an encoder of 3 blocks; choose 1 to 3"),
        ({"depth": 99}, "depth 99 does not exist in an encoder of 3 blocks; choose 1 to 3"),
        ({"depth": -1}, "depth -1 does not exist"),
        ({"subset": BlockSubset.full(8)}, "subset is for 8 blocks, this encoder has 3"),
        ({"subset": BlockSubset.full(8), "confidence": 1.0}, "subset is for 8 blocks, this encoder has 3"),
    ],
    ids=str,
)
def test_a_promise_that_makes_no_sense_is_refused(edge: Recognizer, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as problem:
        edge.transcribe(SAMPLES, **asked)
    assert "\n" not in str(problem.value)


@pytest.mark.filterwarnings("error")  # of a thread that dies
@pytest.mark.parametrize("endless", [1e15, float("inf")])
@pytest.mark.parametrize("promise", ["deadline_ms", "target_rtf", "max_cpu"])
def test_an_endless_promise_runs_the_deepest(honest: Recognizer, promise: str, endless: float) -> None:
    assert honest.transcribe(SAMPLES, **{promise: endless}).depth == 3


@pytest.mark.parametrize("asked", [{}, {"deadline_ms": 1000.0}, {"confidence": 0.5}], ids=str)
@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(0, np.float32), "the array of samples is empty"),
        (np.zeros((2, 100), np.float32), r"float array \(S,\), found float32 of shape \(2, 100\)"),
        (np.zeros((), np.float32), r"float array \(S,\), found float32 of shape \(\)"),
        (np.zeros(100, np.int16), "found int16"),
        (np.zeros(100, np.complex64), "found complex64"),
        (np.array([0.0, np.nan]), "not finite"),
        (np.array([0.0, -np.inf]), "not finite"),
        ([0.0, 1.0, "a"], "float array"),
        (None, "float array"),
    ],
    ids=["empty", "2-D", "0-D", "int16", "complex", "NaN", "infinite", "list of words", "None"],
)
def test_an_array_that_is_no_audio_is_refused(
    edge: Recognizer, samples: Any, message: str, asked: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=message) as problem:
        edge.transcribe(samples, **asked)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("asked", [{}, {"deadline_ms": 1000.0}], ids=str)
def test_a_file_that_is_no_audio_is_refused(edge: Recognizer, tmp_path: Path, asked: dict[str, Any]) -> None:
    soundfile.write(tmp_path / "none.wav", np.zeros(0), SAMPLE_RATE)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("not audio")
    for name in ("none.wav", "empty.wav", "text.wav", "missing.wav"):
        with pytest.raises(UserError, match=name):
            edge.transcribe(tmp_path / name, **asked)


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_must_be_one_or_more(exported: Path, threads: int) -> None:
    with pytest.raises(UserError, match=f"threads is {threads}; give 1 or more"):
        Recognizer(exported, threads)


# ------------------------------------------------------------------------------------------------ damaged folders


def foreign_graph(file: Path) -> None:
    """Something else's model: y = relu(x)."""
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("a", "b")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["a"], ["b"])], "other", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, file)


def change(file: Path, **values: Any) -> None:
    """Replace values in a JSON file; `...` takes one out."""
    stored = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in stored.items() if value is not ...}))


def cut(file: Path, share: float = 0.5) -> None:
    file.write_bytes(file.read_bytes()[: round(share * file.stat().st_size)])


def ladder_of_two(folder: Path) -> None:
    Ladder(2, "wer", "dev", 1, (Rung(1, "10", 0.0, 0.0, 0, 1), Rung(2, "11", 0.0, 0.0, 0, 1))).save(
        folder / "ladder.json"
    )


def profile_with(folder: Path, **values: Any) -> None:
    """A profile of this model and device but for the values of its table."""
    table = {"threads": 1, "seconds": [1, 3], "features_ms": [1, 3], "network_ms": {"1": [1, 2]}, "cpu_share": 1.0}
    model_id = json.loads((folder / "manifest.json").read_text())["model_id"]
    stored = {"format": 1, "model_id": model_id, "device": asdict(Device.here()), "tables": [table | values]}
    (folder / PROFILE).write_text(json.dumps(stored))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "graph cut short": (lambda f: cut(f / "model.onnx"), r"model\.onnx cannot be loaded .*; copy or export it again"),
    "graph nearly whole": (lambda f: cut(f / "model.onnx", 0.99), r"model\.onnx cannot be loaded"),
    "graph empty": (lambda f: cut(f / "model.onnx", 0), r"model\.onnx"),
    "graph is text": (lambda f: (f / "model.onnx").write_text("hello"), r"model\.onnx cannot be loaded"),
    "graph missing": (lambda f: (f / "model.onnx").unlink(), r"model\.onnx does not exist"),
    "graph of something else": (lambda f: foreign_graph(f / "model.onnx"), r"model\.onnx is no graph of layerdial"),
    "manifest missing": (lambda f: (f / "manifest.json").unlink(), r"has no manifest\.json"),
    "manifest no JSON": (lambda f: cut(f / "manifest.json"), r"manifest\.json is not valid JSON"),
    "manifest empty": (lambda f: cut(f / "manifest.json", 0), r"manifest\.json is not valid JSON"),
    "manifest a list": (lambda f: (f / "manifest.json").write_text("[]"), r"manifest\.json is damaged"),
    "manifest of the future": (lambda f: change(f / "manifest.json", format=2), r"manifest\.json .* this layerdial re"),
    "manifest of another kind": (lambda f: change(f / "manifest.json", kind="x"), r"manifest\.json has kind .x."),
    "manifest of another export": (
        lambda f: change(f / "manifest.json", model_id="0123456789abcdef"),
        r"model\.onnx has .* manifest\.json .*; they are not from one export",
    ),
    "manifest of more tokens": (lambda f: change(f / "manifest.json", vocab_size=9), "they are not from one export"),
    "manifest at another rate": (lambda f: change(f / "manifest.json", sample_rate=8000), r"manifest\.json is damaged"),
    "manifest of more blocks": (lambda f: change(f / "manifest.json", n_blocks=4), r"manifest\.json is damaged"),
    "manifest of odd features": (
        lambda f: change(f / "manifest.json", features={"kind": "smell"}),
        r"manifest\.json is damaged .*smell",
    ),
    "manifest with an unknown key": (lambda f: change(f / "manifest.json", colour=1), r"manifest\.json is damaged"),
    "manifest of null": (lambda f: change(f / "manifest.json", n_blocks=None), r"manifest\.json is damaged"),
    "manifest of words for numbers": (
        lambda f: change(f / "manifest.json", vocab_size="seven"),
        r"manifest\.json",
    ),
    "tokens missing": (lambda f: (f / "tokens.txt").unlink(), r"tokens\.txt does not exist"),
    "tokens too few": (
        lambda f: (f / "tokens.txt").write_text("<blk> 0\n▁low 1\n"),
        r"tokens\.txt has 2 tokens, the model 4",
    ),
    "tokens no list": (lambda f: (f / "tokens.txt").write_text("low middle high"), r"tokens\.txt is not a list"),
    "tokens empty": (lambda f: (f / "tokens.txt").write_text(""), r"tokens\.txt"),
    "tokens in another code": (lambda f: (f / "tokens.txt").write_bytes(b"\xff\xfe\x00"), r"tokens\.txt is not a list"),
    "ladder of other blocks": (ladder_of_two, r"ladder\.json is for 2 blocks, this model has 3"),
    "ladder no JSON": (lambda f: (f / "ladder.json").write_text("{"), r"ladder\.json is not valid JSON"),
    "profile no JSON": (lambda f: (f / PROFILE).write_text("{"), r"profile\.json is not valid JSON"),
    "profile a list": (lambda f: (f / PROFILE).write_text("[]"), r"profile\.json is damaged .it holds no JSON"),
    "profile without tables": (
        lambda f: (f / PROFILE).write_text('{"format": 1, "model_id": "a"}'),
        r"profile\.json is damaged .*layerdial profile",
    ),
    "profile with a list for depths": (lambda f: profile_with(f, network_ms=[1, 2]), r"profile\.json is damaged"),
    "profile with too few numbers": (lambda f: profile_with(f, network_ms={"1": [1]}), r"profile\.json is damaged"),
    "profile of no depth": (lambda f: profile_with(f, network_ms={}), r"profile\.json is damaged"),
    "profile of no length": (lambda f: profile_with(f, seconds=[], features_ms=[]), r"profile\.json is damaged"),
    "profile of one length twice": (lambda f: profile_with(f, seconds=[1, 1]), r"profile\.json is damaged"),
    "profile with times below zero": (lambda f: profile_with(f, features_ms=[-1, -3]), r"profile\.json is damaged"),
    "profile with NaN": (lambda f: profile_with(f, features_ms=[1, float("nan")]), r"profile\.json is damaged"),
    "profile of no CPU": (lambda f: profile_with(f, cpu_share=0), r"profile\.json is damaged"),
}
KEYS = ("model_id", "n_blocks", "features", "vocab_size", "silent_tokens", "costs", "parity", "precision")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_by_one_line_that_names_the_file(copy: Path, damage: str) -> None:
    spoil, message = DAMAGES[damage]
    spoil(copy)
    with pytest.raises(UserError, match=message) as problem:
        Recognizer(copy, threads=1)
    assert "\n" not in str(problem.value) and str(copy) in str(problem.value)


def test_a_profile_of_the_same_shape_that_is_whole_is_read(copy: Path) -> None:
    profile_with(copy)
    recognizer = Recognizer(copy, threads=1)
    assert recognizer.controller.costs.features(3.0) == 3.0
    assert recognizer.transcribe(SAMPLES, deadline_ms=NEVER_MS).text == TEXT


@pytest.mark.parametrize("key", KEYS)
def test_a_manifest_without_a_key_is_refused(copy: Path, key: str) -> None:
    change(copy / "manifest.json", **{key: ...})
    with pytest.raises(UserError, match=rf"manifest\.json is damaged .*{key}.*; export the model again"):
        Recognizer(copy, threads=1)


def test_a_folder_that_is_no_export_is_refused(laddered: Path, tmp_path: Path) -> None:
    for folder in (laddered, tmp_path, tmp_path / "nowhere"):
        assert not is_exported(folder)
        with pytest.raises(UserError, match=r"is not an exported model: it has no manifest\.json; .*layerdial export"):
            Recognizer(folder)


def test_a_folder_half_copied_is_still_known_as_an_export(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    assert is_exported(copy)


# -------------------------------------------------------------------------------------------------------- profile


@pytest.fixture(scope="session")
def profiled(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Profile]:
    folder = shutil.copytree(exported, tmp_path_factory.mktemp("profiled") / "edge")
    notes: list[str] = []
    profile = profile_device(folder, (1, 2), budget_s=1.0, note=notes.append)
    assert notes == ["1 thread", "2 threads"]
    assert profile.save(folder, Ladder.beside(folder, 3), 3) == folder / PROFILE
    return folder, profile


def test_a_profile_is_measured_and_read_back(profiled: tuple[Path, Profile]) -> None:
    folder, profile = profiled
    recognizer = Recognizer(folder, threads=1)
    assert Profile.beside(folder, profile.model_id) == profile
    assert [table.threads for table in profile.tables] == [1, 2]
    for table in profile.tables:
        assert set(table.network_ms) == {1, 2, 3} and table.cpu_share > 0
        assert all(len(row) == len(table.seconds) and min(row) > 0 for row in table.network_ms.values())
        assert table.network_ms[3][-1] > table.network_ms[3][0]
    assert recognizer.controller.costs == profile.tables[0].costs()


def test_the_peak_memory_of_a_profile_is_that_of_a_fresh_process(profiled: tuple[Path, Profile]) -> None:
    assert "torch" in sys.modules  # much larger
    assert all(20 < (table.peak_rss_mb or 0) < 200 for table in profiled[1].tables)


def test_a_profile_of_other_threads_another_device_or_model_is_left_alone(
    profiled: tuple[Path, Profile], tmp_path: Path
) -> None:
    folder = shutil.copytree(profiled[0], tmp_path / "edge")
    profile = profiled[1]
    assert profile.table(3) is None
    change(folder / PROFILE, device={"processor": "an abacus", "cores": 1, "onnxruntime": "0.1"})
    assert Profile.beside(folder, profile.model_id) is None
    assert Recognizer(folder, threads=1).transcribe(SAMPLES, deadline_ms=NEVER_MS).text == TEXT
    assert Profile.beside(profiled[0], "another model") is None


def test_the_stored_pareto_table_has_no_dominated_depth(profiled: tuple[Path, Profile]) -> None:
    for table in json.loads((profiled[0] / PROFILE).read_text())["tables"]:
        rows = table["pareto"]
        assert rows[-1]["depth"] == 3  # nothing is better
        for better, row in ((b, r) for b in rows for r in rows if b is not r):
            assert not (better["wer"] <= row["wer"] and better["latency_ms"] <= row["latency_ms"])
        assert all(row["rtf"] == pytest.approx(row["latency_ms"] / 10_000, abs=1e-6) for row in rows)


@pytest.mark.parametrize("wers", [(0.3, 0.2, 0.1), (0.3, 0.4, 0.1), (0.1, 0.2, 0.3)])
@pytest.mark.parametrize("times", [(1.0, 2.0, 3.0), (2.0, 1.0, 3.0), (1.0, 3.0, 2.0), (1.0, 1.0, 1.0)])
def test_a_pareto_table_has_no_dominated_depth(wers: tuple[float, ...], times: tuple[float, ...]) -> None:
    ladder = Ladder(3, "wer", "dev", 1, tuple(Rung(d, LADDER[d], None, wers[d - 1], 0, 1) for d in (1, 2, 3)))
    costs = CostTable((10.0,), (1.0,), {depth: (times[depth - 1],) for depth in (1, 2, 3)})
    rows = pareto(costs, ladder, 3)
    for better, row in ((b, r) for b in rows for r in rows if b is not r):
        assert not (better["wer"] <= row["wer"] and better["latency_ms"] <= row["latency_ms"])


def test_a_profile_in_numbers_survives_being_stored(exported: Path, tmp_path: Path) -> None:
    table = ThreadProfile(1, (1.0, 3.0), (0.1, 0.3), {1: (1.0, 2.0), 3: (2.0, 5.0)}, 0.98, None)
    profile = Profile("a", Device.here(), (table,))
    profile.save(tmp_path, None, 3)
    assert Profile.beside(tmp_path, "a") == profile
    assert Profile.beside(exported, "a") is None


# --------------------------------------------------------------------------------------------------------- memory


def test_weights_beside_the_graph_give_the_same(copy: Path, edge: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx_ir

    import layerdial.export.writer

    weights, graph = copy / "model.weights", copy / "model.onnx"
    monkeypatch.setattr(layerdial.export.writer, "EXTERNAL_FROM_MB", 0)
    layerdial.export.writer.save_graph(onnx_ir.load(edge.session.file), copy)
    change(copy / "manifest.json", sha256=..., checksum=...)  # which are of the graph in one file
    assert weights.stat().st_size > 100_000 and graph.stat().st_size < edge.session.file.stat().st_size
    recognizer = Recognizer(copy, threads=1)
    inputs = edge.features(SAMPLES)[None]
    for subset in EVERY_SUBSET:
        ours, theirs = (
            r.session.posteriors(inputs, np.array([inputs.shape[1]]), subset)[0] for r in (recognizer, edge)
        )
        np.testing.assert_array_equal(ours, theirs)
    cut(weights)
    with pytest.raises(UserError, match=r"model\.(onnx|weights)") as problem:
        Recognizer(copy, threads=1)
    assert "\n" not in str(problem.value)
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.weights"):
        Recognizer(copy, threads=1)


def in_new_process(code: str, *arguments: object) -> Any:
    """The JSON that a Python program prints."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


UNWANTED = ("torch", "lhotse", "transformers", "onnx", "rich", "typer", "jiwer", "sentencepiece", "pydantic", "yaml")


def test_neither_import_nor_use_of_the_runtime_needs_the_packages_of_training(exported: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speak(TEXT, seed=77, rate=8000), 8000)
    code = """
import json, sys
import layerdial.runtime
imported = set(sys.modules)
recognizer = layerdial.runtime.Recognizer(sys.argv[1])
texts = [recognizer.transcribe(sys.argv[2]).text]
texts += [recognizer.transcribe(sys.argv[2], deadline_ms=1e9, confidence=1.0).text]
texts += recognizer.transcribe_batch([recognizer._profile and None or __import__("numpy").zeros(16000, "float32")])
print(json.dumps({"imported": sorted(imported), "used": sorted(sys.modules), "texts": texts}))
"""
    found = in_new_process(code, exported, tmp_path / "a.wav")
    assert found["texts"] == [TEXT, TEXT, ""]
    for when in ("imported", "used"):
        assert not {name.partition(".")[0] for name in found[when]} & set(UNWANTED), when
    assert "onnxruntime" not in found["imported"]


# not getrusage(), which on Linux never says less than the process had from which it was started
PEAK = """
import json, sys
from pathlib import Path
from layerdial.runtime import Recognizer
recognizer = Recognizer(sys.argv[1], 1)
words = len(recognizer.transcribe(sys.argv[2], depth=3).text.split())
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps([words, int(status["VmHWM"].split()[0]) / 1000]))
"""


@pytest.fixture
def minutes(tmp_path: Path, slow_audio: np.ndarray) -> Iterator[Callable[[int], Path]]:
    """Files of so many minutes of words, 16 kHz."""
    made: list[Path] = []

    def write(count: int) -> Path:
        made.append(tmp_path / f"{count}.flac")
        with soundfile.SoundFile(made[-1], "w", SAMPLE_RATE, 1) as file:
            for _ in range(2 * count):
                file.write(slow_audio)
        return made[-1]

    yield write
    for path in made:
        path.unlink()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak like this")
@pytest.mark.slow  # an hour of audio is written, read and recognised
def test_an_hour_needs_hardly_more_memory_than_a_minute(exported: Path, minutes: Callable[[int], Path]) -> None:
    short_words, short_mb = in_new_process(PEAK, exported, minutes(1))
    words, mb = in_new_process(PEAK, exported, minutes(60))
    print(f"peak of a minute {short_mb:.0f} MB, of an hour {mb:.0f} MB")
    assert words > 55 * short_words
    assert mb < short_mb + 20 and mb < 200
