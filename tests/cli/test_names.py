"""Names of files that are not text: shown somehow, read as any other, and never the end of a list."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import soundfile

from layerdial.data.corpora.folder import prepare_folder
from layerdial.data.manifest import load_samples, open_cuts
from layerdial.utils.files import json_text
from tiny import command, speak
from tiny_corpora import write_table

NAMES = (b"caf\xe9.wav", b"\xff\xfe.wav", "日本.wav".encode(), b"tab\tbed.wav", b"new\nline.wav")


def write_odd(folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / os.fsdecode(name) for name in NAMES]
    for path in paths:
        with path.open("wb") as file:
            soundfile.write(file, speak("low high"), 16000, format="WAV")
    return paths


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_list_of_files_is_worked_to_its_end(
    tmp_path: Path, learnt: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tiny._ENCODING", encoding)
    paths = write_odd(tmp_path / "in")
    missing = tmp_path / os.fsdecode(b"not-h\xe8re.wav")
    ended = command("transcribe", learnt, missing, *paths, tmp_path / "in", *paths)
    lines = ended.out.splitlines()
    assert len(lines) == 15 and all(line.endswith("low high") for line in lines), ended.err
    assert ended.code == 2 and len(ended.err.splitlines()) == 1
    assert "not-h\\udce8re.wav does not exist" in ended.err
    ended = command("transcribe", learnt, "--json", missing, *paths)
    rows = [json.loads(line) for line in ended.out.splitlines()]
    assert [os.fsencode(row["file"]) for row in rows] == [os.fsencode(path) for path in paths] and ended.code == 2


def test_a_corpus_may_lie_in_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    source = tmp_path / os.fsdecode(b"donn\xe9es")
    (file,) = write_odd(source)[2:3]
    write_table(source / "metadata.csv", [[file.name, "low high", "me"], ["gone.wav", "low", "me"]])
    report = prepare_folder(source, tmp_path / "out")
    (cut,) = open_cuts(report.splits["train"].path)
    assert cut.id == "日本" and len(load_samples(cut)) == len(speak("low high"))
    assert os.fsdecode(b"donn\xe9es") in json.loads((tmp_path / "out" / "rejected.jsonl").read_text())["reason"]


def test_json_with_names_that_are_no_text_can_be_written() -> None:
    for value in ({"file": os.fsdecode(b"caf\xe9")}, {"file": "café"}):
        assert json.loads(json_text(value).encode()) == value
    assert "café" in json_text({"file": "café"})
