"""An exported tiny Whisper under constraints: depth, text, what is measured, and what is marked."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from layerdial.ladder import Ladder, Rung
from layerdial.request import Request
from layerdial.runtime import Recognizer, token_decoding
from layerdial.runtime.controller import CostTable, DepthController, worthwhile
from layerdial.runtime.profile import Profile
from layerdial.runtime.profiling import profile_recognizer
from layerdial.runtime.session import Cancel, Cancelled
from layerdial.subset import BlockSubset
from layerdial.text.speech_rate import usual_text
from layerdial.text.token_rules import Written
from layerdial.transcript import Transcript
from tiny import command
from tiny_whisper import FULL, N_BLOCKS, Pair, samples

pytest_plugins = ["tiny_whisper_edge"]

AUDIO = samples(9123)
LONG = np.tile(samples(16000), 45)


def believing(folder: Path, network_ms: float, token_ms: float) -> Recognizer:
    """One that believes to need these milliseconds a block and second of audio, and a token."""
    recognizer = Recognizer(folder / "edge", threads=1)
    rows = {depth: (network_ms * depth, 10 * network_ms * depth) for depth in range(1, N_BLOCKS + 1)}
    table = CostTable((1.0, 10.0), (0.01, 0.1), rows, token_ms=(token_ms, token_ms))
    recognizer._controller = DepthController(table, worthwhile(None, N_BLOCKS))
    return recognizer


@pytest.fixture
def quick(folders: Path) -> Recognizer:
    return believing(folders, 0.01, 0.01)


@pytest.fixture(autouse=True)
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly all that the random network writes loops: here it counts as text, up to where it does."""
    search = token_decoding.decode_once
    monkeypatch.setattr(token_decoding, "decode_once", lambda *given: replace(search(*given), looped=False))


# ------------------------------------------------------------------------------------------------------------ requests


@pytest.mark.parametrize("limit", [{"deadline_ms": 1e9}, {"target_rtf": 1e6}, {"max_cpu": 1e6}], ids=str)
def test_with_time_enough_all_blocks_run(quick: Recognizer, limit: dict[str, float]) -> None:
    found = quick.transcribe(AUDIO, **limit)  # type: ignore[arg-type]
    assert found.depth == N_BLOCKS and found.reason.startswith("deepest within") and found.text
    assert found.text == quick.transcribe(AUDIO).text


@pytest.mark.parametrize("limit", [{"deadline_ms": 1e-3}, {"target_rtf": 1e-9}, {"max_cpu": 1e-9}], ids=str)
def test_without_time_the_shallowest_depth_gives_its_whole_text(quick: Recognizer, limit: dict[str, float]) -> None:
    found = quick.transcribe(AUDIO, **limit)  # type: ignore[arg-type]
    assert found.depth == 1 and found.reason.startswith("shallowest: nothing keeps") and not found.cut
    assert found.text == quick.transcribe(AUDIO, depth=1).text


def test_the_decoder_alone_may_take_the_time_of_depth(folders: Path) -> None:
    depths = [believing(folders, 1.0, ms).transcribe(AUDIO, max_cpu=0.05).depth for ms in (0.001, 20.0)]
    assert depths == [N_BLOCKS, 1]


def test_the_depth_of_each_piece_is_chosen_anew(folders: Path) -> None:
    """The device is far too slow until the first text is written."""
    recognizer, texts = believing(folders, 0.01, 0.01), list[int]()
    controller = recognizer.controller
    controller.load.slowdown = lambda now: 1.0 if texts else 1e9  # type: ignore[method-assign]
    controller.observe_text = lambda seconds, steps: texts.append(steps)  # type: ignore[method-assign]
    found = recognizer.transcribe(LONG, deadline_ms=1e6)
    assert [chunk.depth for chunk in found.chunks] == [1, N_BLOCKS] and all(chunk.reason for chunk in found.chunks)


def test_the_confidence_is_the_mean_posterior_of_the_tokens(quick: Recognizer) -> None:
    assert quick.transcribe(AUDIO, confidence=0.0).reason.startswith("shallowest, and sure of it (")
    deeper = quick.transcribe(AUDIO, depth=3, confidence=1.0, first_depth=2)
    assert deeper.depth == 3 and deeper.reason.startswith("depth 3 was asked for, as the depth 2 was not sure (")
    assert 0 < (deeper.chunks[0].confidence or 0) < 1 and deeper.text == quick.transcribe(AUDIO, depth=3).text


def test_beams_and_blocks_of_the_decoder_go_with_a_deadline(pair: Pair, quick: Recognizer) -> None:
    for wishes in ({"beams": 3}, {"decoder_depth": 1}):
        found = quick.answer(AUDIO, Request(deadline_ms=1e9, **wishes))
        assert found.text == pair.onnx.answer(AUDIO, Request(depth=N_BLOCKS, **wishes)).text


def test_silence_has_no_text_and_needs_no_time(quick: Recognizer) -> None:
    before = quick.controller.load.slowdown(0.0)
    assert quick.transcribe(np.zeros(16000, np.float32), deadline_ms=1.0).text == ""
    assert quick.controller.speech.rate == pytest.approx(4.0) and before == 1.0


# --------------------------------------------------------------------------------------------------------------- loops


def test_a_text_that_was_cut_is_marked(quick: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = Written([3, 4], -0.1, 0.0, True, (4,), 20)
    monkeypatch.setattr(token_decoding, "decode_once", lambda *_: cut)
    monkeypatch.setattr(token_decoding, "decode_again", lambda *_: cut)
    found = quick.transcribe(AUDIO, deadline_ms=1e-3)
    assert found.cut and found.chunks[0].cut and "the text repeated itself and was cut" in found.reason
    assert quick.transcribe(AUDIO, depth=1).cut
    assert not Transcript("", FULL, 1.0, 1.0).cut


def test_a_search_is_stopped_between_two_tokens(pair: Pair) -> None:
    cancel = Cancel()
    begun = pair.onnx.decoding.begin(pair.onnx.features(AUDIO), FULL, cancel)
    assert begun.search is not None and begun.search.first().tokens
    cancel()
    assert begun.search.first().tokens  # the encoder's is not the decoder's
    with pytest.raises(Cancelled):
        begun.search.first(cancel)


# ------------------------------------------------------------------------------------------------------------- profile


def test_depths_that_were_not_trained_are_neither_measured_nor_chosen(folders: Path, tmp_path: Path) -> None:
    edge = shutil.copytree(folders / "edge", tmp_path / "edge")
    rungs = tuple(Rung(d, BlockSubset.prefix(N_BLOCKS, d).key, None, 1 / d, 1, 9) for d in (2, 3, 4))
    Ladder(N_BLOCKS, "wer", "dev", 9, rungs, shallowest=2).save(edge / "ladder.json")
    recognizer = Recognizer(edge, threads=1)
    assert set(profile_recognizer(recognizer, (1.0, 2.0), budget_s=0.1, repeats=1).network_ms) == {2, 3, 4}
    assert recognizer.transcribe(AUDIO, deadline_ms=1e-3).depth == 2
    assert set(recognizer.controller.costs.network_ms) == {2, 4}


def test_a_profile_has_the_encoder_and_a_step_of_the_decoder_apart(pair: Pair) -> None:
    table = profile_recognizer(pair.onnx, (1.0, 2.0), budget_s=0.2, repeats=2)
    assert set(table.network_ms) == set(range(1, N_BLOCKS + 1))
    assert len(table.token_ms) == 2 and min(table.token_ms) > 0
    assert table.costs().usual(4, 1.0) == pytest.approx(table.costs().total(4, 1.0) + 4 * table.token_ms[0])


def test_what_is_measured_writes_a_text_of_usual_length(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, run = [], pair.session.decoder.run
    monkeypatch.setattr(pair.session.decoder, "run", lambda *a: steps.append(1) or run(*a))
    measured = pair.onnx.decoding.usual_search(pair.onnx.features(samples(48000)))
    assert measured is not None
    write, n_tokens = measured
    write()
    assert len(steps) == n_tokens == usual_text(48, 3.0) == 12


@pytest.mark.medium
def test_the_command_measures_the_device_and_requests_use_it(folders: Path, tmp_path: Path) -> None:
    edge = shutil.copytree(folders / "edge", tmp_path / "edge")
    soundfile.write(tmp_path / "a.wav", AUDIO, 16000, subtype="FLOAT")
    ended = command("profile", edge, "--threads", "1", "--budget", "1")
    assert ended.code == 0 and "depth  4" in ended.out, ended.err
    recognizer = Recognizer(edge, threads=1)
    stored = Profile.beside(edge, recognizer.manifest.model_id)
    assert stored is not None and recognizer.controller.costs == stored.tables[0].costs() and stored.tables[0].token_ms
    for wishes in (("--deadline-ms", "1e9"), ("--target-rtf", "1e6"), ("--max-cpu", "1e6"), ("--confidence", "1")):
        ended = command("transcribe", edge, tmp_path / "a.wav", "--json", *wishes)
        assert ended.code == 0 and json.loads(ended.out)["depth"] == N_BLOCKS, ended.err
