"""Where transcripts go, and in which format: on standard output, or in a folder with a file for each recording."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from layerdial.audio.files import without_extension
from layerdial.audio.folders import audio_files
from layerdial.errors import UserError
from layerdial.utils.files import check_writable

SUFFIXES = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt", "tsv": ".tsv"}
"""The formats, and what the names of their files end with."""

TIMED = ("srt", "vtt", "tsv")
"""Formats that need times."""


@dataclass(frozen=True)
class Output:
    """What is written of each recording: `channel` is a number from 1 on, left, right or each; else they are mixed.

    With `folder` each recording has a file there; `skip_existing` leaves out those that have one, which is whole since
    it was written in one step.
    """

    format: str = "text"
    folder: Path | None = None
    skip_existing: bool = False
    channel: str | None = None

    def __post_init__(self) -> None:
        if self.format not in SUFFIXES:
            raise UserError(f"--format is {self.format!r}; choose {', '.join(SUFFIXES)}")
        if self.skip_existing and self.folder is None:
            raise UserError("--skip-existing looks for the files of --output-dir; give a folder")
        if self.channel is not None and self.channel not in ("left", "right", "each") and not _counts(self.channel):
            raise UserError(f"--channel is {self.channel!r}; give left, right, each, or a number from 1 on")

    @property
    def times(self) -> bool:
        """Whether it needs times: subtitles do, and the lines of several speakers in their order."""
        return self.format in TIMED or self.channel == "each"


@dataclass(frozen=True)
class Job:
    """A recording, and the file of its transcript; none on standard output."""

    audio: Path
    target: Path | None


def format_of(name: str | None, as_json: bool) -> str:
    """Return the format by `--format` and `--json`. Raises `UserError` where they differ."""
    if as_json and name not in (None, "json"):
        raise UserError(f"--json is --format json; it excludes --format {name}")
    return "json" if as_json else name or "text"


def plan(audio: Sequence[Path], output: Output) -> list[Job]:
    """Return what is to be done for files and for the audio files in folders, before any work.

    Raises `UserError` for an empty folder, for two recordings whose transcripts would be one file, for several whose
    subtitles would be one stream, and where nothing can be written.
    """
    found = [(path, name) for word in audio for path, name in _recordings(word)]
    if output.folder is None:
        if len(found) > 1 and output.format in TIMED:
            raise UserError(f"{len(found)} recordings do not make one {output.format} file; give --output-dir DIR")
        return [Job(path, None) for path, _ in found]
    jobs = [Job(path, output.folder / f"{name}{SUFFIXES[output.format]}") for path, name in found]
    first: dict[Path | None, Path] = {}
    for job in jobs:
        if (other := first.setdefault(job.target, job.audio)) != job.audio:
            raise UserError(f"{other} and {job.audio} would both be written to {job.target}; take two folders")
    check_writable(output.folder)
    return list(dict.fromkeys(jobs))


def _counts(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text[:9]) >= 1


def _recordings(word: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the recordings that a word of the command line stands for, each with the name of its transcript."""
    if str(word) == "-":
        yield word, Path("stdin")
        return
    if not word.is_dir():
        yield word, Path(without_extension(word).name)
        return
    inside = list(audio_files(word))
    if not inside:
        raise UserError(f"{word} is a folder without audio files, by their names; give files, or another folder")
    for path in inside:
        yield path, without_extension(path.relative_to(word))
