"""Which of the words of a command line `[MODEL] AUDIO...` is the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from layerdial.audio.files import EXTENSIONS
from layerdial.audio.folders import audio_files
from layerdial.errors import UserError
from layerdial.registry import DEFAULT
from layerdial.registry.entries import read_entries
from layerdial.registry.find import is_model_folder


def split_words(words: Sequence[str]) -> tuple[str, list[Path]]:
    """Return the model and the audio files of `[MODEL] AUDIO...`; the model is `english` where the line has none.

    The first word is audio if it is a file (or `-`, or a pipe), ends as names of audio files do, or is a folder of
    such files without a model and the only word; else it is the model. Raises `UserError` for a word that can be both,
    and where no audio is left.
    """
    if not words:
        raise UserError("there is no audio; give files: layerdial transcribe [MODEL] AUDIO")
    first, *rest = words
    if _is_audio(first) or (not rest and _holds_audio(Path(first))):
        _check_no_model(first, rest)
        audio = [Path(word) for word in words]
        if not any(path.exists() for path in audio if str(path) != "-") and "-" not in words:
            raise UserError(f"{first} does not exist; give audio files")  # said before a model is fetched
        return DEFAULT, audio
    if rest:
        return first, [Path(word) for word in rest]
    if is_model_folder(Path(first)) or first in read_entries():
        raise UserError(f"there is no audio after the model {first}; give files: layerdial transcribe {first} AUDIO")
    if Path(first).is_dir():
        raise UserError(f"{first} is a folder without audio files, by their names, and without a model")
    raise UserError(f"{first} does not exist; give audio files, with or without a model before them")


def _is_audio(word: str) -> bool:
    path = Path(word)
    return (
        word == "-"
        or (path.exists() and not path.is_dir())
        or bool(EXTENSIONS.fullmatch(path.suffix) and not path.is_dir())
    )


def _holds_audio(path: Path) -> bool:
    """Return whether a path is a folder of recordings, and neither that of a model nor the name of one."""
    named = len(path.parts) == 1 and path.name in read_entries()
    return path.is_dir() and not is_model_folder(path) and not named and any(True for _ in audio_files(path))


def _check_no_model(first: str, rest: Sequence[str]) -> None:
    """Raise `UserError` where audio has the name of a model, or a model stands behind audio."""
    if len(Path(first).parts) == 1 and not first.startswith(".") and first in read_entries():
        raise UserError(f"{first} is a file here and the name of a model; for the file write ./{first}")
    for word in rest:
        if is_model_folder(Path(word)) or (not Path(word).exists() and word in read_entries()):
            raise UserError(f"{word} is a model; it comes before the audio: layerdial transcribe {word} {first}")
