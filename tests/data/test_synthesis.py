"""Corpora of synthetic speech: as long as asked, whatever the workers, whole after an interruption."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from layerdial.data.manifest import CorpusReport, describe, open_cuts
from layerdial.data.synthesis import demo_corpus as synth
from layerdial.data.synthesis.demo_corpus import (
    SPLITS,
    VOCABULARY,
    VOICES,
    plan_demo,
    prepare_demo,
    speak_cuts,
    speak_texts,
)
from layerdial.data.synthesis.espeak import SAMPLE_RATE
from layerdial.errors import UserError
from tiny import command

HOURS = {"train": 0.008, "dev": 0.003, "test": 0.003}  # a minute in all


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> CorpusReport:
    return prepare_demo(tmp_path_factory.mktemp("demo"), hours=HOURS, workers=1)


def audio(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "audio").rglob("*.flac"))}


def fractions(report: CorpusReport) -> list[float]:
    return [summary.hours for summary in report.splits.values()]


def test_same_seed_same_plan_and_only_words_of_the_grammar() -> None:
    plan = list(plan_demo("train", 0.2, seed=4))
    assert plan == list(plan_demo("train", 0.2, seed=4)) != list(plan_demo("train", 0.2, seed=5))
    words = [utterance.text.split() for _, utterance in plan]
    assert {word for sentence in words for word in sentence} == set(VOCABULARY)
    assert 30 <= len(VOCABULARY) <= 40
    assert all(2 <= len(sentence) <= 9 for sentence in words)
    assert {utterance.voice.partition("+")[2] for _, utterance in plan} == set(VOICES["train"])


def test_demo_has_the_hours_and_cuts_that_describe_the_audio(demo: CorpusReport) -> None:
    assert fractions(demo) == pytest.approx(list(HOURS.values()), rel=0.25)
    for split, summary in demo.splits.items():
        assert summary == describe(demo.out / f"{split}.cuts.jsonl.gz")
        plan = dict(plan_demo(split, HOURS[split]))
        for cut in open_cuts(summary.path):
            (supervision,) = cut.supervisions
            assert supervision.text == plan[cut.id].text and supervision.speaker == plan[cut.id].voice
            samples, rate = soundfile.read(cut.recording.sources[0].source, dtype="float32")
            assert (rate, len(samples)) == (SAMPLE_RATE, cut.num_samples)
            assert 0.2 < cut.duration < 7 and 0.05 < np.abs(samples).max() < 1


@pytest.mark.medium
def test_two_workers_write_what_one_writes(demo: CorpusReport, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    prepare_demo(tmp_path, hours=HOURS, workers=2, progress=lambda done, total: calls.append((done, total)))
    assert audio(tmp_path) == audio(demo.out)
    assert calls == [(done, len(calls)) for done in range(1, len(calls) + 1)]


def test_complete_corpus_is_reused(demo: CorpusReport) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.out.rglob("*")}
    again = prepare_demo(demo.out, hours=HOURS, workers=1)
    assert again.reused and again.splits == demo.splits
    assert before == {path: path.stat().st_mtime_ns for path in demo.out.rglob("*")}


def test_interrupted_corpus_is_made_whole(demo: CorpusReport, tmp_path: Path) -> None:
    def interrupt(done: int, _total: int) -> None:
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_demo(tmp_path, hours=HOURS, workers=1, progress=interrupt)
    assert not list(tmp_path.glob("*.cuts.jsonl.gz")) and not list(tmp_path.rglob("*.tmp"))
    kept = next((tmp_path / "audio").rglob("*.flac"))
    kept.write_bytes(kept.read_bytes()[:20])  # as a lost disk cache leaves it
    report = prepare_demo(tmp_path, hours=HOURS, workers=1)
    assert not report.reused and audio(tmp_path) == audio(demo.out)


def test_corpus_with_audio_missing_is_completed(demo: CorpusReport) -> None:
    before = audio(demo.out)
    next((demo.out / "audio" / "dev").iterdir()).unlink()
    assert not prepare_demo(demo.out, hours=HOURS, workers=1).reused
    assert audio(demo.out) == before


def test_other_settings_replace_the_corpus(tmp_path: Path) -> None:
    prepare_demo(tmp_path, hours=HOURS, workers=1)
    small = {"train": 0.001, "dev": 0.001, "test": 0.001}
    report = prepare_demo(tmp_path, hours=small, seed=1, workers=1)
    assert not report.reused
    assert len(audio(tmp_path)) == sum(summary.cuts for summary in report.splits.values())


def test_a_corpus_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "dev.cuts.jsonl.gz").write_bytes(b"precious")
    with pytest.raises(UserError, match=r"dev\.cuts\.jsonl\.gz is there already"):
        prepare_demo(tmp_path, hours=HOURS, workers=1)
    assert (tmp_path / "dev.cuts.jsonl.gz").read_bytes() == b"precious"


def test_unwritable_place_and_bad_numbers(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        prepare_demo(tmp_path / "file", hours=HOURS, workers=1)
    with pytest.raises(UserError, match="hours of 'dev' is -1"):
        prepare_demo(tmp_path, hours={"dev": -1})
    with pytest.raises(UserError, match="workers is 0"):
        prepare_demo(tmp_path, workers=0)
    with pytest.raises(UserError, match="snr_db"):
        prepare_demo(tmp_path, snr_db=(30, 10))
    with pytest.raises(UserError, match=r"reverb is \(0.7, 0.2\)"):
        prepare_demo(tmp_path, reverb=(0.7, 0.2))
    with pytest.raises(UserError, match="utterances of 'test' is 0"):
        prepare_demo(tmp_path, utterances={"test": 0})


@pytest.mark.medium
def test_hard_corpus_has_the_utterances_asked_for_whatever_the_workers(tmp_path: Path) -> None:
    make = partial(prepare_demo, utterances={"train": 20, "dev": 2, "test": 3}, snr_db=(0, 15), reverb=(0.2, 0.7))
    one = make(tmp_path / "one", workers=1)
    assert {split: summary.cuts for split, summary in one.splits.items()} == {"train": 20, "dev": 2, "test": 3}
    assert audio(make(tmp_path / "two", workers=2).out) == audio(one.out)
    assert make(one.out, workers=1).reused


def test_utterances_are_the_first_of_the_default_corpus(demo: CorpusReport, tmp_path: Path) -> None:
    few = audio(prepare_demo(tmp_path, utterances=dict.fromkeys(SPLITS, 2), workers=1).out)
    assert len(few) == 6 and few.items() <= audio(demo.out).items()


def test_command_without_options_makes_the_corpus_that_it_always_made(
    demo: CorpusReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synth, "prepare_demo", partial(prepare_demo, hours=HOURS))
    assert command("prepare", "demo", tmp_path / "x", "--workers", 1).code == 0
    assert audio(tmp_path / "x") == audio(demo.out)
    known = {"corpus": "demo", "format": 1, "out": str(tmp_path / "x"), "hours": HOURS, "snr_db": [10, 30], "seed": 0}
    assert json.loads((tmp_path / "x" / "demo.json").read_text())["settings"] == known


@pytest.mark.medium
def test_options_of_the_command_reach_the_corpus_and_another_room_replaces_it(tmp_path: Path) -> None:
    hard = ("prepare", "demo", tmp_path, "--utterances", "2,1,3", "--snr", "0,15", "--workers", 1, "--reverb")
    assert "test: 3 cuts" in command(*hard, "0.2,0.7").out
    settings = json.loads((tmp_path / "demo.json").read_text())["settings"]
    assert settings["utterances"] == {"train": 2, "dev": 1, "test": 3}
    assert (settings["snr_db"], settings["reverb"]) == ([0, 15], [0.2, 0.7])
    before = audio(tmp_path)
    assert command(*hard, "0.2,0.7").code == 0 and audio(tmp_path) == before
    assert command(*hard, "0.6,0.7").code == 0
    assert all(other != before[name] for name, other in audio(tmp_path).items())


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--utterances", "9,9", "--utterances '9,9' is not of the form 1500,300,2000"),
        ("--utterances", "9,9,0", "utterances of 'test' is 0; give a number above 0"),
        ("--snr", "loud", "--snr 'loud' is not of the form 10,30"),
        ("--snr", "nan,30", "snr_db is (nan, 30.0); give two numbers"),
        ("--reverb", "0.5", "--reverb '0.5' is not of the form 0.2,0.7"),
        ("--reverb", "0,0.7", "reverb is (0.0, 0.7); give two numbers from 0.05 to 5 seconds"),
    ],
)
def test_bad_option_is_named_in_one_line(option: str, value: str, complaint: str, tmp_path: Path) -> None:
    ended = command("prepare", "demo", tmp_path / "x", option, value)
    assert ended.code == 2 and ended.err.startswith(f"layerdial: {complaint}") and ended.err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_missing_wheel_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['espeakng_loader'] = None\n"
        "from layerdial.data.synthesis.demo_corpus import prepare_demo; from layerdial.errors import UserError\n"
        "try: prepare_demo('nowhere')\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'.[demo]'" in done.stdout and not Path("nowhere").exists()


TEXTS = [("a/1", "the author of the danger trail"), ("a_1", "it's 1984"), ("empty", " "), ("b", "philip steels")]


def test_every_text_is_read_by_different_voices(tmp_path: Path) -> None:
    report = speak_texts(TEXTS, tmp_path / "x", copies=2, workers=1)
    assert [row.cut_id for row in report.rejected] == ["empty-read0", "empty-read1"]
    cuts = list(open_cuts(report.splits["train"].path))
    assert [cut.id for cut in cuts] == [f"{id}-read{n}" for id in ("a/1", "a_1", "b") for n in (0, 1)]
    speakers = [cut.supervisions[0].speaker for cut in cuts]
    assert all(first != second for first, second in zip(speakers[::2], speakers[1::2], strict=True))
    assert speak_texts(TEXTS, tmp_path / "x", copies=2, workers=1).reused
    assert not speak_texts(TEXTS[:1], tmp_path / "x", copies=2, workers=1).reused


def test_speech_can_have_the_rate_of_the_recordings_it_stands_in_for(tmp_path: Path) -> None:
    full, narrow = (speak_texts(TEXTS, tmp_path / str(rate), rate=rate, workers=1) for rate in (16000, 8000))
    for wide, cut in zip(*(open_cuts(report.splits["train"].path) for report in (full, narrow)), strict=True):
        assert cut.recording.sampling_rate == 8000 and abs(cut.duration - wide.duration) < 1e-3
        assert len(cut.load_audio()[0]) == cut.recording.num_samples == round(8000 * cut.duration)
    with pytest.raises(UserError, match="rate is 48000"):
        speak_texts(TEXTS, tmp_path / "x", rate=48000)


def test_texts_of_a_manifest_are_read(demo: CorpusReport, tmp_path: Path) -> None:
    source = demo.splits["dev"].path
    report = speak_cuts(source, tmp_path, copies=1, voices=["en+f1"], snr_db=None, workers=1)
    said = [cut.supervisions[0].text for cut in open_cuts(report.splits["train"].path)]
    assert said == [cut.supervisions[0].text for cut in open_cuts(source)]
    assert json.loads((tmp_path / "speak.json").read_text())["complete"]
    with pytest.raises(UserError, match="give another folder"):
        speak_cuts(source, demo.out)


def test_texts_are_checked_before_any_work(tmp_path: Path) -> None:
    def once() -> Iterator[tuple[str, str]]:
        yield from TEXTS

    with pytest.raises(TypeError, match="give a list"):
        speak_texts(once(), tmp_path)
    with pytest.raises(UserError, match="unknown voice 'en\\+nobody'"):
        speak_texts(TEXTS, tmp_path, voices=["en+nobody"])
    with pytest.raises(UserError, match="copies is 0"):
        speak_texts(TEXTS, tmp_path, copies=0)
    assert not list(tmp_path.iterdir())
