"""`layerdial models`, and transcription by a model that has a name, on both command lines."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from layerdial.cli import device
from layerdial.registry import places
from layerdial.registry.entries import FILE, read_entries
from layerdial.runtime.manifest import Manifest
from layerdial.utils.rows import append_row
from tiny import Ended, command, in_child, speak
from tiny_registry import publish
from tiny_server import Server

pytest_plugins = ["tiny_export", "tiny_registry"]

TEXT = "low high middle"
Run = Callable[..., Ended]


def on_device(*arguments: object) -> Ended:
    """`layerdial ARGUMENTS` where the runtime alone is installed, in a child process."""

    def run() -> None:
        sys.argv = ["layerdial", *map(str, arguments)]
        device.main()

    return in_child(run)


both = pytest.mark.parametrize("run", [command, on_device], ids=["full", "device"])


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "clip.wav", speak(TEXT, 77), 16000)
    return tmp_path / "clip.wav"


@both
def test_the_table_says_what_is_known_and_where_it_lies(run: Run, published: Server, own_registry: Path) -> None:
    ended = run("models")
    head, row, what = ended.out.splitlines()
    assert head.split("  ")[0] == "name" and (ended.code, ended.err) == (0, "")
    assert row.split() == ["english", "3", "10.0", "(3),", "30.0", "(1)", "1", "MB", "CC-BY-4.0", "to", "fetch"]
    assert what == "english: tones; WER on tones of the tests, 100 words"
    fetched = run("models", "fetch", "english")
    folder = places.cache_folder(read_entries()["english"])
    assert (fetched.code, fetched.out) == (0, f"english: {folder}\n")
    assert "fetching english, MB 1/1" in fetched.err
    assert run("models").out.splitlines()[1].endswith(f"cached: {folder}")
    clone = shutil.copytree(folder, places.clone_folder("english"))
    assert run("models").out.splitlines()[1].endswith(f"shipped: {clone}")


@both
def test_a_name_that_is_not_known_is_one_line_with_those_that_are(run: Run, published: Server, clip: Path) -> None:
    for words in (("models", "fetch", "german"), ("transcribe", "german", clip)):
        ended = run(*words)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
        assert "there is no model 'german'" in ended.err and "the registry has english" in ended.err


@both
def test_audio_alone_is_transcribed_by_english(run: Run, published: Server, exported: Path, clip: Path) -> None:
    publish(exported, published)
    first = run("transcribe", clip)
    assert (first.code, first.out) == (0, f"{TEXT}\n") and "fetching english" in first.err
    again = run("transcribe", "english", "--depth", "3", clip, clip)
    assert again.out == f"{clip}: {TEXT}\n" * 2 and again.err == ""


@both
def test_without_a_network_and_a_clone_one_line_says_so(run: Run, published: Server, clip: Path) -> None:
    published.status = 404
    ended = run("transcribe", clip)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "/english/manifest.json cannot be fetched: HTTP 404" in ended.err


def test_an_empty_registry_is_said_in_one_line(own_registry: Path, clip: Path) -> None:
    ended = command("transcribe", clip)
    assert (ended.code, ended.err.count("\n")) == (2, 1) and "the registry of this version is empty" in ended.err
    assert command("models").out.startswith("the registry of this version is empty")


@pytest.mark.parametrize("words", [("transcribe", "a.wav", "--fast"), ("profile", "edge", "more")])
def test_a_device_refuses_what_it_does_not_know(words: tuple[str, ...]) -> None:
    ended = on_device(*words)
    assert ended.code == 2 and "usage: layerdial" in ended.err


def test_a_device_needs_audio_to_transcribe() -> None:
    ended = on_device("transcribe")
    assert ended.code == 2
    assert ended.err == "layerdial: there is no audio; give files: layerdial transcribe [MODEL] AUDIO\n"


# ---------------------------------------------------------------------------------------------------- a new entry


@pytest.fixture
def own_model(own_registry: Path, exported: Path) -> Path:
    """An exported folder in the clone, with what a device leaves in it."""
    folder = shutil.copytree(exported, places.clone_folder("english"))
    (folder / "profile.json").write_text("{}")
    (folder / "README.md").write_text("# A card\n")
    return folder


def test_an_entry_has_sizes_hashes_and_rates_from_the_folder_and_its_sweep(own_model: Path, own_registry: Path) -> None:
    sweep, weights = own_registry / "sweep.jsonl", Manifest.load(own_model).model_id
    for subset, errors, fingerprint in (
        ("111", 5, weights),
        ("010", 40, weights),
        ("100", 9, weights),
        ("111", 7, "x"),
    ):
        append_row(sweep, {"subset": subset, "errors": errors, "words": 200, "fingerprint": fingerprint})
    ended = command("models", "entry", own_model, "--summary", "tones", "--sweep", sweep, "--test-set", "dev")
    assert ended.code == 0, ended.err
    entry = read_entries()["english"]
    assert {file.name for file in entry.files} == {file.name for file in own_model.iterdir()} - {"profile.json"}
    assert [(rate.depth, rate.errors) for rate in entry.rates] == [(3, 5), (1, 40)]
    assert (entry.licence, entry.n_blocks, entry.test_set, entry.source) == ("CC-BY-4.0", 3, "dev", "")
    assert "WER:      2.50 % at depth 3, 20.00 % at depth 1" in ended.out
    again = command("models", "entry", own_model, "--summary", "again", "--source", "https://example.org/english")
    assert again.code == 0 and [entry.summary for entry in read_entries().values()] == ["again"]


def test_rates_of_different_cuts_do_not_make_an_entry(own_model: Path, own_registry: Path) -> None:
    sweep, weights = own_registry / "sweep.jsonl", Manifest.load(own_model).model_id
    for subset, cuts in (("111", "dev"), ("010", "test")):
        append_row(sweep, {"subset": subset, "errors": 1, "words": 9, "fingerprint": weights, "cuts_contents": cuts})
    ended = command("models", "entry", own_model, "--summary", "tones", "--sweep", sweep, "--test-set", "dev")
    assert ended.code == 2 and "has rows of several cuts or normalizers" in ended.err


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--test-set", "dev"], "--sweep and --test-set belong together"),
        (["--name", "My Model"], "name is 'My Model'"),
        (["--source", "ftp://x"], "source is 'ftp://x'"),
        (["--sweep", "none.jsonl", "--test-set", "dev"], "none.jsonl has no row of this model"),
    ],
    ids=str,
)
def test_an_entry_that_cannot_be_is_one_line(own_model: Path, options: list[str], problem: str) -> None:
    ended = command("models", "entry", own_model, "--summary", "tones", *options)
    assert ended.code == 2 and problem in ended.err and ended.err.count("\n") == 1
    assert not read_entries()


def test_a_model_without_a_licence_is_not_entered(own_model: Path) -> None:
    stored = json.loads((own_model / "manifest.json").read_text())
    del stored["checksum"]
    (own_model / "manifest.json").write_text(json.dumps(stored | {"licence": "not stated"}))
    ended = command("models", "entry", own_model, "--summary", "tones")
    assert ended.code == 2 and "states no licence; export it again with --licence" in ended.err


def test_the_file_of_the_registry_is_in_the_package() -> None:
    assert FILE.is_file() and FILE.parent == Path(places.__file__).parent
