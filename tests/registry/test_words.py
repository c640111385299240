"""A command line `[MODEL] AUDIO...` means one thing, or is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerdial.errors import UserError
from layerdial.registry.words import split_words
from tiny_server import Server

pytest_plugins = ["tiny_registry"]


@pytest.fixture(autouse=True)
def here(published: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with audio, a model, a folder of recordings, and files whose names are those of models."""
    here = tmp_path / "here"
    for folder in ("edge", "recordings.wav", "org"):
        (here / folder).mkdir(parents=True)
    (here / "edge" / "manifest.json").touch()
    (here / "calls" / "monday").mkdir(parents=True)
    for file in ("a.wav", "b.wav", "speech", "org/name", "calls/monday/1.wav"):
        (here / file).touch()
    monkeypatch.chdir(here)
    return here


@pytest.mark.parametrize(
    ("words", "model", "audio"),
    [
        ("a.wav", "english", ["a.wav"]),
        ("a.wav b.wav", "english", ["a.wav", "b.wav"]),
        ("speech", "english", ["speech"]),
        ("-", "english", ["-"]),
        ("a.wav missing.wav", "english", ["a.wav", "missing.wav"]),
        ("english a.wav", "english", ["a.wav"]),
        ("edge a.wav", "edge", ["a.wav"]),
        ("edge missing.wav", "edge", ["missing.wav"]),
        ("openai/whisper-tiny.en a.wav", "openai/whisper-tiny.en", ["a.wav"]),
        ("runs/none/model a.wav", "runs/none/model", ["a.wav"]),
        ("org/name a.wav", "english", ["org/name", "a.wav"]),
        ("recordings.wav a.wav", "recordings.wav", ["a.wav"]),
        ("calls", "english", ["calls"]),
        ("calls a.wav", "calls", ["a.wav"]),
        ("a.wav calls", "english", ["a.wav", "calls"]),
        ("edge calls", "edge", ["calls"]),
    ],
)
def test_the_first_word_is_the_model_unless_it_is_audio(words: str, model: str, audio: list[str]) -> None:
    assert split_words(words.split()) == (model, list(map(Path, audio)))


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("english", "there is no audio after the model english; give files: layerdial transcribe english AUDIO"),
        ("edge", "there is no audio after the model edge; give files: layerdial transcribe edge AUDIO"),
        ("recordings.wav", "recordings.wav is a folder without audio files, by their names, and without a model"),
        ("nothing", "nothing does not exist; give audio files, with or without a model before them"),
        ("missing.wav", "missing.wav does not exist; give audio files"),
        ("a.wav english", "english is a model; it comes before the audio: layerdial transcribe english a.wav"),
        ("a.wav edge", "edge is a model; it comes before the audio: layerdial transcribe edge a.wav"),
    ],
)
def test_what_leaves_no_audio_or_comes_in_another_order_is_one_line(words: str, problem: str) -> None:
    with pytest.raises(UserError) as refused:
        split_words(words.split())
    assert str(refused.value) == problem


def test_a_file_with_the_name_of_a_model_must_be_told_apart(here: Path) -> None:
    (here / "english").touch()
    with pytest.raises(
        UserError, match=r"^english is a file here and the name of a model; for the file write ./english"
    ):
        split_words(["english"])
    assert split_words(["./english"]) == ("english", [Path("english")])
