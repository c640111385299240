from __future__ import annotations

import logging
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from lhotse.cut import MixedCut

from layerdial.data.corpora.folder import prepare_folder
from layerdial.data.manifest import cut_speaker, cut_text, load_samples, open_cuts
from layerdial.errors import UserError
from tiny_corpora import reasons, shorten, texts, write_audio, write_table


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Two splits, three speakers, eleven recordings of each in train and two in test, at 8 kHz."""
    root = tmp_path / "digits"
    for split, count in (("train", 11), ("test", 2)):
        rows = []
        for speaker in ("ann", "bob", "eve"):
            for i in range(count):
                name = f"{i}_{speaker}.opus"
                write_audio(root / split / name, 0.3 + 0.01 * i, 8000, format="OGG", subtype="OPUS")
                rows.append([name, f"Digit {i}!", speaker])
        write_table(root / split / "metadata.csv", rows)
    return root


def test_folders_with_tables_are_splits(digits: Path, tmp_path: Path) -> None:
    report = prepare_folder(digits, tmp_path / "out")
    assert {s: (x.cuts, x.speakers) for s, x in report.splits.items()} == {"train": (33, 3), "test": (6, 3)}
    cut = next(iter(open_cuts(report.splits["test"].path)))
    assert (cut.id, cut_text(cut), cut_speaker(cut)) == ("test/0_ann", "digit 0", "ann")
    samples = load_samples(cut)
    assert samples.dtype == np.float32 and len(samples) == round(0.3 * 16000)
    assert Path(cut.recording.sources[0].source).is_absolute()


def test_a_single_table_is_the_split_train(digits: Path, tmp_path: Path) -> None:
    report = prepare_folder(digits / "test", tmp_path / "out")
    assert list(report.splits) == ["train"] and next(iter(texts(report.splits["train"].path))) == "0_ann"


def test_without_speakers_each_file_is_its_own(digits: Path, tmp_path: Path) -> None:
    write_table(digits / "test" / "metadata.csv", [["0_ann.opus", "a"], ["1_ann.opus", "b"]], "file_name,transcription")
    report = prepare_folder(digits / "test", tmp_path / "out")
    assert [cut_speaker(cut) for cut in open_cuts(report.splits["train"].path)] == ["0_ann", "1_ann"]


def test_held_out_speakers_are_in_their_split_only(digits: Path, tmp_path: Path) -> None:
    report = prepare_folder(digits, tmp_path / "out", hold_out={"dev": ["ann"], "test": ["bob"]})
    speakers = {
        split: Counter(cut_speaker(cut) for cut in open_cuts(summary.path)) for split, summary in report.splits.items()
    }
    assert speakers == {"dev": {"ann": 13}, "test": {"bob": 13, "eve": 2}, "train": {"eve": 11}}


def test_joins_use_every_recording_once_per_copy(digits: Path, tmp_path: Path) -> None:
    report = prepare_folder(digits, tmp_path / "out", join=(3, 5), copies=4)
    cuts = list(open_cuts(report.splits["train"].path))
    used: Counter[str] = Counter()
    companies = set()
    for cut in cuts:
        assert isinstance(cut, MixedCut) and 3 <= len(cut.tracks) <= 5
        members = [track.cut.id for track in cut.tracks]
        assert {name.split("_")[1] for name in members} == {cut_speaker(cut)}
        assert cut_text(cut) == " ".join(f"digit {name.split('/')[1].split('_')[0]}" for name in members)
        used.update(members)
        companies.add(tuple(members))
    assert len(used) == 33 and set(used.values()) == {4}
    assert len(companies) == len(cuts) == len({cut.id for cut in cuts})
    once = Counter(track.cut.id for cut in open_cuts(report.splits["test"].path) for track in cut.tracks)
    assert len(once) == 6 and set(once.values()) == {1}  # nothing is scored twice; two recordings make a short join


def test_a_join_sounds_as_its_parts_with_silence_between(digits: Path, tmp_path: Path) -> None:
    report = prepare_folder(digits, tmp_path / "out", join=(3, 3))
    for cut in list(open_cuts(report.splits["train"].path))[:5]:
        audio = cut.load_audio()[0]
        assert cut.sampling_rate == 8000 and len(audio) == round(cut.duration * 8000)
        end = 0
        for track in cut.tracks:
            begin = round(track.offset * 8000)
            assert end == 0 or 800 <= begin - end <= 3200
            assert not audio[end:begin].any()
            part = track.cut.load_audio()[0]
            end = begin + len(part)
            np.testing.assert_array_equal(audio[begin:end], part)
        assert end == len(audio)
        assert abs(len(load_samples(cut)) - 2 * len(audio)) <= 1


def test_equal_seeds_give_equal_files(digits: Path, tmp_path: Path) -> None:
    def manifest(name: str, seed: int) -> bytes:
        report = prepare_folder(digits, tmp_path / name, join=(3, 7), copies=2, seed=seed)
        return report.splits["train"].path.read_bytes()

    assert manifest("a", 0) == manifest("b", 0) != manifest("c", 1)


def test_every_kind_of_broken_file_is_left_out_and_named(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    for name in ("good", "wordy", "empty", "flac"):
        write_audio(source / f"{name}.flac")
    write_audio(source / "opus.opus", 3.0, format="OGG", subtype="OPUS")
    write_audio(source / "wave.wav")
    for name in ("flac.flac", "opus.opus", "wave.wav"):
        shorten(source / name)
    write_audio(source / "none.wav", 0.0)
    write_audio(source / "low.wav", rate=6000)
    write_audio(source / "two.wav", channels=2)
    soundfile.write(source / "nan.wav", np.full(16000, np.nan, dtype=np.float32), 16000, subtype="FLOAT")
    (source / "text.wav").write_text("no")
    facts = {
        "wordy": "26 words does not fit into 25 frames (1.00 s)",
        "empty": "text is empty",
        "flac": "truncated",
        "opus": "truncated",
        "wave": "truncated",
        "none": "no samples",
        "low": "6000 Hz, too low",
        "two": "2 channels",
        "nan": "not a finite number",
        "text": "not audio",
        "lost": "does not exist",
    }
    files = {path.stem: path.name for path in source.iterdir()} | {"lost": "lost.wav"}
    said = {"wordy": "a " * 26, "empty": " --- "}
    rows = [[files[name], said.get(name, "some words"), "me"] for name in ("good", *facts)]
    write_table(source / "metadata.csv", [*rows, ["good.flac", "again", "me"], ["", "nothing", "me"], ["short.wav"]])
    report = prepare_folder(source, tmp_path / "out")
    assert report.splits["train"].cuts == 1
    assert texts(report.splits["train"].path) == {"good": "some words"}
    found = reasons(tmp_path / "out")
    assert len(report.rejected) == len(rows) + 2
    for name, words in facts.items():
        assert words in found[name]
    assert "earlier row" in found["good"] and "no file_name" in found["mine/metadata.csv:15"]


def test_when_nothing_is_usable_nothing_is_written(tmp_path: Path) -> None:
    write_table(tmp_path / "mine" / "metadata.csv", [["a.wav", "hello", "me"]])
    with pytest.raises(UserError, match=r"none of 1 utterances can be used; the first, a: .*a.wav does not exist"):
        prepare_folder(tmp_path / "mine", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"join": (7, 3)}, "join 7-3 is not a range"),
        ({"copies": 2}, "without join"),
        ({"join": (2, 3), "copies": 0}, "copies is 0"),
        ({"hold_out": {"dev": ["joe"]}}, "no speaker 'joe' .* speakers are ann, bob, eve"),
        ({"hold_out": {"dev": ["ann"], "test": ["ann"]}}, "both dev and test"),
    ],
)
def test_impossible_wishes_are_refused(digits: Path, tmp_path: Path, arguments: Mapping[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        prepare_folder(digits, tmp_path / "out", **arguments)


def test_malformed_tables_are_refused(digits: Path, tmp_path: Path) -> None:
    table = digits / "test" / "metadata.csv"
    for content, words in {
        b"file_name,text\na.wav,hi\n": "lacks the column transcription; found file_name, text",
        b"": "found no columns",
        b"file_name,transcription\na.wav,\xff\xfe\n": "not a CSV file in UTF-8",
    }.items():
        table.write_bytes(content)
        with pytest.raises(UserError, match=words):
            prepare_folder(digits / "test", tmp_path / "out")
    table.write_text("file_name,transcription\n0_ann.opus,zero\n")
    with pytest.raises(UserError, match="lacks the column speaker_id; joining is within a speaker"):
        prepare_folder(digits / "test", tmp_path / "out", join=(2, 3))
    (digits / "metadata.csv").touch()
    with pytest.raises(UserError, match=r"both metadata.csv and test/metadata.csv"):
        prepare_folder(digits, tmp_path / "out")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"no metadata.csv, neither have folders in it; write one with the columns"):
        prepare_folder(empty, tmp_path / "out")


def test_progress_and_leftovers_are_told(digits: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[tuple[str, int, int | None]] = []
    prepare_folder(digits, tmp_path / "out", progress=lambda *call: calls.append(call))
    assert calls[0] == ("recordings", 1, 39) and calls[-1] == ("recordings", 39, 39) and len(calls) == 39
    with caplog.at_level(logging.WARNING, logger="layerdial"):
        prepare_folder(digits / "train", tmp_path / "out")
    assert "test.cuts.jsonl.gz is from an earlier run" in caplog.text


def test_a_full_disk_leaves_the_old_manifests(digits: Path, tmp_path: Path) -> None:
    prepare_folder(digits, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))  # writing more fails as on a full disk
    try:
        with pytest.raises(UserError, match=r"cannot write .*File too large"):
            prepare_folder(digits, tmp_path / "out", join=(3, 7), copies=20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_an_output_that_cannot_be_a_folder_is_named(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/out"):
        prepare_folder(digits, tmp_path / "file" / "out")


def test_an_interrupted_run_leaves_nothing(digits: Path, tmp_path: Path) -> None:
    def interrupt(description: str, done: int, total: int | None) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_folder(digits, tmp_path / "out", progress=interrupt)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_script_of_the_digits_recipe_makes_folders_of_what_is_public(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "recipes" / "digits-fsdd" / "folders.py"
    clone, source = tmp_path / "clone", tmp_path / "fsdd"
    for name in ("0_theo_0", "3_theo_5", "9_lucas_12", "1_lucas_4"):
        write_audio(clone / "recordings" / f"{name}.wav")
    made = subprocess.run([sys.executable, script, clone, source], capture_output=True, text=True, check=True)
    assert [line.rsplit(": ")[-1] for line in made.stdout.splitlines()] == ["2 recordings", "2 recordings"]
    prepare_folder(source, tmp_path / "cuts", hold_out={"test-unseen": ["lucas"]})
    assert texts(tmp_path / "cuts" / "train.cuts.jsonl.gz") == {"train/3_theo_5": "three"}
    assert texts(tmp_path / "cuts" / "test.cuts.jsonl.gz") == {"test/0_theo_0": "zero"}
    empty = subprocess.run([sys.executable, script, tmp_path, source], capture_output=True, text=True, check=False)
    assert empty.returncode == 1 and "has no .wav files" in empty.stderr
