"""Calibrated confidence: maps that rise, that are right on average, and that belong to one model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from layerdial.errors import UserError
from layerdial.evaluation.calibrate import hits
from layerdial.evaluation.judged import JudgedWords, cross_fitted, fitted_curve, fitted_line
from layerdial.recognition.calibration import FILE, Calibration, Curve
from layerdial.request import Request
from layerdial.runtime import Recognizer
from layerdial.subset import BlockSubset
from layerdial.transcript import Chunk, Transcribed, Word
from tiny import command, write_corpus
from tiny_runtime import SAMPLES, TEXT, change, cut

pytest_plugins = ["tiny_export"]


def words(slope: float, offset: float, count: int = 4000, speakers: int = 4) -> JudgedWords:
    """Words whose log-odds of being right are a line of those of their confidence."""
    rng = np.random.default_rng(0)
    odds = rng.normal(1.5, 1.5, count)
    right = rng.random(count) < 1 / (1 + np.exp(-(slope * odds + offset)))
    rows = zip(1 / (1 + np.exp(-odds)), right, np.arange(count) % speakers, strict=True)
    return JudgedWords.of((float(p), bool(hit), f"speaker {who}") for p, hit, who in rows)


def curve(slope: float = 1.0, offset: float = 0.0, depth: int = 1) -> Curve:
    return Curve(depth, slope, offset, 10, 0.1, 0.0)


@pytest.mark.parametrize(("slope", "offset"), [(1.0, 0.0), (0.5, 1.0), (2.0, -1.0), (0.1, 3.0)])
def test_the_line_is_found_and_the_error_goes(slope: float, offset: float) -> None:
    judged = words(slope, offset)
    assert fitted_line(judged.confidence_W, judged.right_W) == pytest.approx((slope, offset), abs=0.2)
    for own in (judged, replace(judged, speakers=("one",) * len(judged))):
        found = fitted_curve(2, own)
        assert found.error_after < 0.03 and found.words == 4000
        assert found.error_before == pytest.approx(own.error())


def test_maps_rise_and_stay_between_0_and_1() -> None:
    for slope, offset in ((0.0, -1.0), (0.3, 5.0), (30.0, -80.0)):
        values = [curve(slope, offset)(p) for p in np.linspace(0, 1, 101)]
        assert values == sorted(values) and values[0] >= 0 and values[-1] <= 1
    assert curve()(0.3) == pytest.approx(0.3)


def test_confidence_that_misleads_becomes_a_constant() -> None:
    judged = words(-1.0, 0.0)
    slope, offset = fitted_line(judged.confidence_W, judged.right_W)
    assert slope == 0 and curve(slope, offset)(0.9) == pytest.approx(judged.right_W.mean(), abs=0.01)


@pytest.mark.parametrize("right", [True, False])
def test_where_all_words_are_right_or_wrong_the_map_is_near_to_that_and_not_it(right: bool) -> None:
    judged = replace(words(1.0, 0.0, count=200), right_W=np.full(200, right))
    calibrated_W = cross_fitted(judged)
    assert np.abs(calibrated_W - right).max() < 0.05 and calibrated_W.min() > 0 and calibrated_W.max() < 1


def test_a_fold_is_calibrated_by_other_speakers() -> None:
    """The words of a speaker who is always wrong are believed as those of the others are."""
    judged = words(1.0, 0.0)
    wrong_W = np.array([name == "speaker 0" for name in judged.speakers])
    judged = replace(judged, right_W=judged.right_W & ~wrong_W)
    assert cross_fitted(judged)[wrong_W].mean() > 0.6


def test_the_error_is_the_distance_in_each_bin() -> None:
    judged = JudgedWords.of([(0.95, True, "a"), (0.95, False, "a"), (0.15, False, "a"), (1.0, True, "a")])
    assert judged.error() == pytest.approx((2 * abs(0.95 * 2 + 1 - 2) / 2 + 0.15) / 4)
    with pytest.raises(UserError, match="no word was recognised"):
        JudgedWords.of([])


def test_a_word_is_right_where_the_alignment_hits_it() -> None:
    assert hits(["a", "b", "c", "d"], ["a", "x", "c", "d", "d"]) in (
        [True, False, True, True, False],
        [True, False, True, False, True],
    )
    assert hits([], ["a"]) == [False] and hits(["a"], []) == []


def test_words_have_the_map_of_the_depth_that_recognised_them() -> None:
    chunks = tuple(Chunk(10.0 * i, 10.0 * i + 10, BlockSubset.even(8, depth)) for i, depth in enumerate((2, 6)))
    spoken = tuple(Word("low", start, start + 1, 0.5) for start in (0.0, 9.5, 10.0, 19.0))
    found = Calibration("m", "dev", (curve(offset=1.0, depth=1), curve(offset=2.0, depth=8))).applied(
        Transcribed("low low low low", chunks, 20.0, words=spoken)
    )
    first, second = curve(offset=1.0)(0.5), curve(offset=2.0)(0.5)
    assert [word.confidence for word in found.words] == [first, first, second, second]


def test_a_file_comes_back_as_it_was_and_damage_is_said(tmp_path: Path) -> None:
    assert Calibration.beside(tmp_path, "m") is None
    made = Calibration("m", "dev", (curve(1.5, -0.5), curve(depth=3)))
    file = made.save(tmp_path)
    assert Calibration.beside(tmp_path, "m") == made
    with pytest.raises(
        UserError, match=r"confidence.json is of the model m, this is n; make it again with layerdial c"
    ):
        Calibration.beside(tmp_path, "n")
    whole = json.loads(file.read_text())
    for damage in (
        {"curves": []},
        {"curves": [{**whole["curves"][0], "slope": -1}]},
        {"curves": [{**whole["curves"][0], "offset": "x"}]},
        {"curves": ...},
        {"format": 2},
    ):
        made.save(tmp_path)
        change(file, **damage)
        with pytest.raises(UserError, match=r"confidence.json .*layerdial calibrate") as problem:
            Calibration.beside(tmp_path, "m")
        assert "\n" not in str(problem.value)
    made.save(tmp_path)
    file.write_text(file.read_text().replace("1.5", "2.5"))
    with pytest.raises(UserError, match="damaged or was changed"):
        Calibration.beside(tmp_path, "m")
    cut(file)
    with pytest.raises(UserError, match="is not valid JSON"):
        Calibration.beside(tmp_path, "m")


@pytest.mark.medium
def test_the_command_makes_what_the_runtime_applies(exported: Path, learnt: Path, tmp_path: Path) -> None:
    edge = shutil.copytree(exported, tmp_path / "edge")
    dev = write_corpus(tmp_path / "dev.cuts.jsonl.gz", [TEXT, "middle low", "high"])
    ended = command("calibrate", edge, dev, "--depths", "1,3")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[0].startswith("depth  1  expected calibration error 0.") and lines[1].startswith("depth  3  ")
    assert lines[2:] == [
        f"calibration: {edge / FILE}",
        f"picture:     {edge / 'confidence.png'}",
        f"next:        layerdial transcribe {edge} AUDIO --words --json",
    ]
    assert (edge / "confidence.png").read_bytes().startswith(b"\x89PNG")
    raw, calibrated = (Recognizer(folder, threads=1) for folder in (exported, edge))
    maps = Calibration.beside(edge, raw.manifest.model_id)
    assert maps is not None and [one.depth for one in maps.curves] == [1, 3]
    before, after = (model.answer(SAMPLES, Request(3, words=True)).words for model in (raw, calibrated))
    assert [word.confidence for word in after] == [maps.at(3)(word.confidence) for word in before]
    again = command("calibrate", edge, dev, "--depths", "1,3")
    assert again.out == ended.out  # from the confidence of the model, not from what was calibrated

    change(edge / FILE, model_id="another")
    soundfile.write(tmp_path / "a.wav", SAMPLES, 16000)
    assert command("transcribe", edge, tmp_path / "a.wav").code == 0
    ended = command("transcribe", edge, tmp_path / "a.wav", "--words")
    assert ended.code == 2 and ended.err.count("\n") == 1
    assert f"{edge / FILE} is of the model another, this is " in ended.err
    assert command("calibrate", edge, dev).code == 0
    ended = command("calibrate", learnt, dev)
    assert (
        ended.code == 2 and ended.err.count("\n") == 1 and "is no exported model; calibrate what is used" in ended.err
    )
