"""Exported models on the device: the texts of torch, audio of any length, many threads, and wrong arguments."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from layerdial import BlockSubset, UserError
from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.windows import WINDOW_SECONDS, windows
from layerdial.data.batching import FeatureBatches
from layerdial.evaluation.evaluate import evaluate
from layerdial.models.cost import subset_cost
from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.recognizer import collate_features
from layerdial.request import Request
from layerdial.runtime import Recognizer
from layerdial.text.ngram import write_ngram
from layerdial.text.tuned import TunedDecoder, Weights, save_tuned
from tiny import sentences, speak
from tiny_runtime import EVERY_SUBSET, LADDER, LONG_AUDIO, NEVER_MS, SAMPLES, TEXT

pytest_plugins = ["tiny_export"]

# -------------------------------------------------------------------------------------------------------- same as torch


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


@pytest.mark.parametrize("wishes", [{"beams": 8}, {"hotwords": ["low high"]}, {"hotwords": {"middle": 1}, "beams": 4}])
@pytest.mark.parametrize("depth", [1, 3])
def test_beam_searches_are_those_of_torch(
    edge: Recognizer, heavy: TorchRecognizer, wishes: dict[str, Any], depth: int
) -> None:
    ours, theirs = (model.answer(SAMPLES, Request(depth, **wishes)).text for model in (edge, heavy))
    assert ours == theirs
    assert depth < 3 or ours == TEXT


def test_batches_are_searched_as_requests_are(edge: Recognizer, heavy: TorchRecognizer) -> None:
    request, subset = Request(hotwords=["low high"], beams=4), edge.subset(2)
    batch = collate_features(["", ""], [edge.features(SAMPLES), edge.features(SAMPLES[:16000])], ["", ""], 0.0)
    ours, theirs = (model.recognize(batch, subset, request) for model in (edge, heavy))
    assert ours == theirs
    assert ours[0] == edge.answer(SAMPLES, replace(request, subset=subset)).text


def test_tuned_weights_are_those_of_the_language_model_and_the_depth(copy: Path, tmp_path: Path) -> None:
    lm = tmp_path / "lm.arpa"
    write_ngram([TEXT], lm, 2)
    weights = tuple(Weights(depth, 0.25 * depth, -1.0, 4, 0, 1) for depth in (1, 3))
    save_tuned(copy, Recognizer(copy, threads=1).manifest.model_id, lm, TunedDecoder(lm.name, "dev", weights))
    model, request = Recognizer(copy, threads=1), Request(lm=str(lm))
    assert [model.settled(replace(request, depth=depth)).lm_weight for depth in (1, 2, 3, None)] == [
        0.25,
        0.75,
        0.75,
        0.75,
    ]
    assert model.settled(request).beams == 4 and model.settled(replace(request, lm_weight=2.0)).word_bonus is None
    assert model.settled(request, model.subset(1)).lm_weight == 0.25
    assert model.settled(Request(beams=2)) == Request(beams=2)


def test_a_beam_search_of_long_audio_loses_no_word_at_a_seam(edge: Recognizer) -> None:
    assert edge.answer(LONG_AUDIO, Request(beams=8)).text == edge.transcribe(LONG_AUDIO).text


def test_hotwords_that_no_token_spells_are_named(edge: Recognizer, heavy: TorchRecognizer) -> None:
    for model in (edge, heavy):
        with pytest.raises(UserError, match="cannot spell the hotwords 'Quilter'"):
            model.answer(SAMPLES, Request(hotwords=["low", "Quilter"]))


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


def test_a_batch_of_audio_above_thirty_seconds_is_refused(edge: Recognizer) -> None:
    with pytest.raises(UserError, match="a batch takes audio of at most 30 s each; transcribe cuts longer audio"):
        edge.transcribe_batch([SAMPLES, LONG_AUDIO])


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


# ----------------------------------------------------------------------------------------------------------- long audio


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


@pytest.mark.parametrize("depth", [1, 3])
def test_long_audio_has_the_text_of_torch(edge: Recognizer, heavy: TorchRecognizer, depth: int) -> None:
    assert len(LONG_AUDIO) > 70 * SAMPLE_RATE
    ours, theirs = edge.transcribe(LONG_AUDIO, depth=depth), heavy.transcribe(LONG_AUDIO, depth=depth)
    assert ours.text == theirs.text and len(ours.text.split()) > 150
    assert ours.seconds == theirs.seconds
    assert [(c.start, c.end, c.subset) for c in ours.chunks] == [(c.start, c.end, c.subset) for c in theirs.chunks]


def test_no_input_is_longer_than_thirty_seconds(edge: Recognizer, heard: list[tuple[int, ...]]) -> None:
    edge.transcribe(LONG_AUDIO)
    assert len(heard) == len(list(windows(LONG_AUDIO)))
    assert max(frames for _, frames, _ in heard) == 100 * WINDOW_SECONDS
    assert {batch for batch, _, _ in heard} == {1}


@pytest.mark.parametrize("seconds", [1.0, 29.99, 30.0, 30.01, 56.2, 100.7])
def test_chunks_cover_the_audio_without_a_gap(edge: Recognizer, seconds: float) -> None:
    audio = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
    chunks = edge.transcribe(audio, depth=1).chunks
    assert chunks[0].start == 0 and chunks[-1].end == len(audio) / SAMPLE_RATE
    assert all(a.end == b.start for a, b in itertools.pairwise(chunks))
    assert all(chunk.start < chunk.end for chunk in chunks)


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


# -------------------------------------------------------------------------------------------------------------- threads


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


# ------------------------------------------------------------------------------------------------------ wrong arguments


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"depth": 1, "deadline_ms": 5}, "give one of depth, deadline_ms, not 2"),  # more of these: test_request.py
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


@pytest.mark.parametrize("loud", [200.0, 32767.0, 1e30])
def test_samples_that_were_not_scaled_are_refused(edge: Recognizer, loud: float) -> None:
    with pytest.raises(UserError, match=r"must lie within \[-1, 1\]"):
        edge.transcribe(np.array([0.0, loud, 0.1]))
