"""Manifests of cuts on disk: opened lazily, written in one step, with a check of each cut when it is loaded.

A cut is lhotse's record of a stretch of audio with its transcript: a `MonoCut`, or a `MixedCut` that joins several. A
manifest is a `.cuts.jsonl.gz` file with one cut a line; it is streamed, never held in memory.
"""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from lhotse import CutSet, MonoCut
from lhotse.cut import Cut, MixedCut, PaddingCut
from lhotse.serialization import deserialize_item
from numpy.typing import NDArray

from layerdial.audio.files import AudioProblem, read_segment, to_target_rate
from layerdial.data.checks import problem_of
from layerdial.data.now_reading import reading
from layerdial.data.sources import check_files, check_sources
from layerdial.errors import UserError
from layerdial.utils.files import json_text, replacing
from layerdial.utils.limited_json import parse_json

SUFFIX = ".cuts.jsonl.gz"
_LONGEST_LINE = 16 << 20  # bytes
_MOST_BLANK = 100_000  # lines in a row
_LENGTH_TOLERANCE = 0.025  # seconds between the manifest and the file, lhotse's own tolerance


@dataclass(frozen=True, slots=True)
class Rejected:
    """An utterance left out of a corpus, and the reason."""

    cut_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """The size of one manifest."""

    cuts: int
    hours: float
    speakers: int
    path: Path


@dataclass(frozen=True, slots=True)
class CorpusReport:
    """The contents of the folder `out`: splits by name, the rejected utterances, and the file that lists these, if any.

    `reused`: it was there already, complete, of the same settings.
    """

    out: Path
    splits: dict[str, SplitSummary]
    rejected: tuple[Rejected, ...] = ()
    rejected_path: Path | None = None
    reused: bool = False


def open_cuts(path: str | Path) -> CutSet:
    """Return the cuts of a manifest as a lazy `CutSet`: every iteration reads the file anew, one cut at a time.

    Raises `UserError` if the file is missing, empty, damaged or not a manifest of cuts, or if two cuts have one id;
    damage further on in the file is raised when the iteration gets there.
    """
    lines = CutLines(Path(path))
    if next(iter(lines), None) is None:
        raise UserError(f"{path} holds no cuts; `layerdial prepare` writes manifests")
    found = lines.path.stat()
    _check_ids(lines, found.st_mtime_ns, found.st_size)
    return CutSet(lines)


@lru_cache(maxsize=64)
def _check_ids(lines: CutLines, changed: int, size: int) -> None:
    """Raise `UserError` for an id that two cuts have: features, posteriors and errors are kept by id.

    Once for each state of a file. Takes 8 bytes of memory a cut.
    """
    hashes = np.fromiter((hash(name) for _, name in lines.ids()), np.int64)
    hashes.sort()
    twice = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    seen: dict[str, int] = {}
    for number, name in lines.ids() if twice else ():  # hashes can be equal by chance, so names are compared
        if hash(name) in twice and seen.setdefault(name, number) != number:
            raise UserError(
                f"{lines.path}: lines {seen[name]} and {number} both have the id {name!r}, which must be unique; where "
                "manifests were joined, give the cuts of one other ids (in lhotse: cut.with_id('b/' + cut.id))"
            )


def write_cuts(cuts: Iterable[Cut], path: str | Path) -> SplitSummary:
    """Write `cuts` to a gzipped manifest, which appears at `path` when it is complete; equal cuts give equal bytes.

    Raises `UserError` if the place cannot be written.
    """
    with replacing(Path(path)) as temporary, cut_writer(temporary, Path(path)) as writer:
        for cut in cuts:
            writer.write(cut)
    return writer.summary


def describe(path: str | Path) -> SplitSummary:
    """Count the cuts, hours and speakers of a manifest by streaming it."""
    tally = _Tally()
    for cut in open_cuts(path):
        tally.add(cut)
    return tally.summary(Path(path))


def cut_text(cut: Cut) -> str:
    """Return the transcript: the texts of all supervisions, in the order in which they are spoken."""
    spoken = sorted(cut.supervisions, key=lambda supervision: supervision.start)
    return " ".join(supervision.text for supervision in spoken if supervision.text)


def cut_speaker(cut: Cut) -> str:
    """Return the speaker of the first supervision, or the cut's id where none is given."""
    return next((str(s.speaker) for s in cut.supervisions if s.speaker), str(cut.id))


def load_samples(cut: Cut) -> NDArray[np.float32]:
    """Return the samples (S,) of a cut at 16 kHz, in [-1, 1].

    Raises `AudioProblem`, naming the cut and both numbers, if a file is missing, damaged, stereo, or of another rate or
    length than the manifest's. It is also raised if there are no samples or some are not finite.
    """
    try:
        if not _is_plain(cut):
            samples = _load_through_lhotse(cut)
        elif isinstance(cut, MixedCut):
            samples = _load_joined(cut)
        else:
            samples = _load_single(cut)
        if samples.size == 0:
            raise AudioProblem("no samples")
        if not np.isfinite(samples).all():
            raise AudioProblem("some samples are not finite numbers")
    except AudioProblem as problem:
        raise AudioProblem(f"cut {cut.id}: {problem}") from None
    return to_target_rate(samples, int(cut.sampling_rate))


class CutLines:
    """The lines of a manifest as cuts. lhotse takes it as the data of a lazy `CutSet`; it is pickled as its path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._length: int | None = None

    def __iter__(self) -> Iterator[Cut]:
        for number, line in self._lines():
            yield _cut_from_line(line, self.path, number)

    def __len__(self) -> int:
        if self._length is None:
            self._length = sum(1 for _ in self._lines())
        return self._length

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CutLines) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    def ids(self) -> Iterator[tuple[int, str]]:
        """Yield the number of each line and its cut's id, up to a line that is damaged."""
        with suppress(UserError, ValueError, KeyError, TypeError, RecursionError):
            for number, line in self._lines():
                yield number, str(parse_json(line)["id"])

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        number = 0
        try:
            with self.path.open("rb") as raw:
                zipped = raw.peek(2)[:2] == b"\x1f\x8b"
                with gzip.GzipFile(fileobj=raw) if zipped else raw as lines:
                    for number, line in _bounded_lines(lines, self.path):
                        yield number, line
        except FileNotFoundError:
            raise UserError(f"{self.path} does not exist; give a manifest that `layerdial prepare` wrote") from None
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise UserError(f"{self.path} is damaged after line {number}; prepare it again") from None
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror or error}") from None


@contextmanager
def cut_writer(temporary: Path, path: Path) -> Iterator[CutWriter]:
    """Yield a `CutWriter` into the file `temporary`, which will be called `path` in its summary."""
    # Neither name nor time goes into the gzip header, so that equal manifests are equal files.
    with temporary.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as file:
        yield CutWriter(file, path)


class CutWriter:
    """A writer of cuts, line by line, which counts them."""

    def __init__(self, file: gzip.GzipFile, path: Path) -> None:
        self._file = file
        self._path = path
        self._tally = _Tally()

    def write(self, cut: Cut) -> None:
        """Append one cut."""
        self._file.write(json_text(cut.to_dict()).encode() + b"\n")
        self._tally.add(cut)

    @property
    def summary(self) -> SplitSummary:
        """The size of what was written so far."""
        return self._tally.summary(self._path)


class _Tally:
    def __init__(self) -> None:
        self.cuts = 0
        self.seconds = 0.0
        self.speakers: set[str] = set()

    def add(self, cut: Cut) -> None:
        self.cuts += 1
        self.seconds += cut.duration
        self.speakers.add(cut_speaker(cut))

    def summary(self, path: Path) -> SplitSummary:
        return SplitSummary(self.cuts, self.seconds / 3600, len(self.speakers), path)


def _cut_from_line(line: bytes, path: Path, number: int) -> Cut:
    try:
        record = parse_json(line)
        check_sources(record, f"{path}, line {number},")
        item: Any = deserialize_item(record)
    except UserError:
        raise
    except Exception:  # what lhotse and json run into has many classes, such as RecursionError
        raise UserError(f"{path}, line {number} is not a cut; give a manifest that `layerdial prepare` wrote") from None
    if not isinstance(item, Cut):
        kind = type(item).__name__
        raise UserError(f"{path}, line {number} is a {kind}, not a cut; give a manifest that `layerdial prepare` wrote")
    if (problem := problem_of(item)) is not None:
        raise UserError(f"{path}, line {number}: {problem}; prepare the corpus again")
    return item


def _bounded_lines(file: gzip.GzipFile | BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield lines with their numbers; a few bytes of gzip can hold a line that fills memory, or blank ones for days."""
    blank = 0
    for number in itertools.count(1):
        line = file.readline(_LONGEST_LINE + 1)
        if not line:
            return
        if len(line) > _LONGEST_LINE:
            raise UserError(f"{path}, line {number} has more than {_LONGEST_LINE >> 20} MB; is it a manifest of cuts?")
        blank = 0 if line.strip() else blank + 1
        if blank > _MOST_BLANK:
            raise UserError(f"{path} has more than {_MOST_BLANK} blank lines from line {number - blank + 1} on")
        if not blank:
            yield number, line


def _is_plain(cut: Cut) -> bool:
    """Return whether the cut is a stretch of a file, or such stretches side by side, without augmentation or mixing."""
    if isinstance(cut, MixedCut):
        parts = [track for track in cut.tracks if not isinstance(track.cut, PaddingCut)]
        return not cut.transforms and all(p.snr is None and not p.mute and _is_plain(p.cut) for p in parts)
    if not (isinstance(cut, MonoCut) and cut.has_recording):
        return False
    sources = cut.recording.sources
    return not cut.recording.transforms and len(sources) == 1 and sources[0].type == "file"


def _load_single(cut: MonoCut) -> NDArray[np.float32]:
    recording = cut.recording
    path, rate = recording.sources[0].source, recording.sampling_rate
    wanted = round(cut.duration * rate)
    with reading(path):
        samples, info = read_segment(path, round(cut.start * rate), wanted)
    if info.rate != rate:
        raise AudioProblem(f"{path} is at {info.rate} Hz, the manifest says {rate} Hz; prepare the corpus again")
    if info.channels != 1:
        raise AudioProblem(f"{path} has {info.channels} channels, training takes 1; mix it down first")
    slack = _LENGTH_TOLERANCE * rate
    if abs(info.frames - recording.num_samples) > slack:
        raise AudioProblem(
            f"{path} has {info.frames} samples, the manifest says {recording.num_samples}; prepare the corpus again"
        )
    if wanted - len(samples) > slack:
        raise AudioProblem(f"{path} gave {len(samples)} samples of {wanted}; it is truncated")
    return samples


def _load_joined(cut: MixedCut) -> NDArray[np.float32]:
    """Return the tracks placed at their offsets, with zeros between them."""
    rate = int(cut.sampling_rate)
    mixed = np.zeros(round(cut.duration * rate), dtype=np.float32)
    for track in cut.tracks:
        if isinstance(track.cut, PaddingCut):
            continue
        if track.cut.sampling_rate != rate:
            raise AudioProblem(f"its part {track.cut.id} is at {track.cut.sampling_rate} Hz, the first at {rate} Hz")
        begin = round(track.offset * rate)
        samples = _load_single(track.cut)[: len(mixed) - begin]
        mixed[begin : begin + len(samples)] += samples
    return mixed


def _load_through_lhotse(cut: Cut) -> NDArray[np.float32]:
    """Load cuts of other programs, with augmentation or with samples in memory."""
    check_files(cut.to_dict(), f"cut {cut.id}")
    use_libsndfile()
    try:
        with reading(f"cut {cut.id}"):
            audio = cut.load_audio()
    except Exception as error:  # lhotse raises the errors of its backends, some with a broken text
        raise AudioProblem(f"lhotse cannot load it ({type(error).__name__})") from error
    if audio is None or audio.shape[0] != 1:
        raise AudioProblem(f"{0 if audio is None else audio.shape[0]} channels, training takes 1; mix it down first")
    samples: NDArray[np.float32] = audio[0].astype(np.float32, copy=False)
    return samples


def use_libsndfile() -> None:
    """Make lhotse read every file with libsndfile: for SPHERE it would otherwise run the sph2pipe program."""
    from lhotse.audio.backend import LibsndfileBackend, get_current_audio_backend, set_current_audio_backend

    if not isinstance(get_current_audio_backend(), LibsndfileBackend):
        set_current_audio_backend(LibsndfileBackend())
