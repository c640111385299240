"""The user's own recordings: folders of audio with a `metadata.csv`, as the audiofolder convention has it.

`SOURCE/metadata.csv`, or `SOURCE/<split>/metadata.csv` for several splits, has the columns `file_name` (relative to the
CSV file), `transcription` and, if known, `speaker_id`. Without a speaker every file is a speaker of its own, named by
its path without extension.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import cast

from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment
from lhotse.cut import MixedCut
from lhotse.cut.mixed import MixTrack

from layerdial.audio.files import AudioInfo, AudioProblem, without_extension
from layerdial.data.corpora.prepare import (
    Found,
    ProgressFn,
    check_audio,
    checked_cut,
    counted,
    existing_folder,
    in_order,
    write_splits,
)
from layerdial.data.corpora.table import TableRow, read_table
from layerdial.data.manifest import CorpusReport, Rejected, cut_speaker
from layerdial.errors import UserError

TRAIN = "train"
SILENCE = (0.1, 0.4)
"""Seconds between joined recordings: least and most."""


@dataclass(frozen=True, slots=True)
class MetadataRow:
    """One line of a `metadata.csv`."""

    split: str
    id: str  # path below the source, without extension
    path: Path
    text: str
    speaker: str
    problem: str = ""  # why the row cannot be used, if the table alone shows it


@dataclass(frozen=True, slots=True)
class Joining:
    """The settings for joining single recordings into longer cuts: `least` to `most` at a time, `copies` times over."""

    least: int
    most: int
    copies: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise UserError(f"join {self.least}-{self.most} is not a range; the first number is 1 or more, as in 3-7")
        if self.copies < 1:
            raise UserError(f"copies is {self.copies}; it is 1 or more")


def prepare_folder(
    source: str | Path,
    out: str | Path,
    join: tuple[int, int] | None = None,
    copies: int = 1,
    hold_out: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
    verify: bool = True,
    progress: ProgressFn | None = None,
) -> CorpusReport:
    """Write a manifest for each split of `source`; a source without split folders is one split called `train`.

    `hold_out={"dev": ["theo"]}` moves the speakers named, from any folder, to that split; the others stay. `join=(3,
    7)` joins so many recordings of one speaker and rate, 0.1 to 0.4 s apart, into each cut, without writing audio. The
    last cut of a speaker may have fewer. `copies=4` repeats this four times in split `train`, with different groups
    each time. Other splits are joined once, so that nothing counts twice in a WER. Equal seeds give equal cuts.
    `verify` decodes every file. Recordings of 8 kHz or more are accepted, and resampled when loaded. Raises `UserError`
    for a missing or malformed `metadata.csv`, unknown speakers, or an `out` that cannot be written.
    """
    if join is None and copies != 1:
        raise UserError(f"copies is {copies} without join; add a join range such as 3-7")
    joining = None if join is None else Joining(join[0], join[1], copies, seed)
    folder = existing_folder(source)
    tables = _tables(folder)
    rows = [row for split, table in tables for row in _read_table(folder, split, table, joining is not None)]
    rows = list(_mark_repeated(_move_speakers(rows, hold_out or {})))
    if copies > 1 and all(row.split != TRAIN for row in rows):
        raise UserError(f"copies is {copies}, which is for split {TRAIN}, but {source} has no such split")
    results = in_order(partial(_examine, verify), rows)
    found: Iterable[Found] = counted(results, progress, "recordings", len(rows))
    return write_splits(Path(out), found if joining is None else join_found(found, joining))


def join_found(found: Iterable[Found], joining: Joining) -> Iterator[Found]:
    """Yield rejections as they come, then the cuts of each split, speaker and rate joined."""
    singles: list[tuple[str, MonoCut]] = []
    for split, item in found:
        if isinstance(item, Rejected):
            yield Found(split, item)
        else:
            singles.append((split, cast(MonoCut, item)))

    def company(single: tuple[str, MonoCut]) -> tuple[str, str, int]:
        return single[0], cut_speaker(single[1]), int(single[1].sampling_rate)

    singles.sort(key=lambda single: (*company(single), single[1].id))
    for (split, speaker, rate), group in groupby(singles, key=company):
        cuts = [cut for _, cut in group]
        for copy in range(joining.copies if split == TRAIN else 1):
            rng = random.Random(f"join/{joining.seed}/{split}/{speaker}/{rate}/{copy}")
            for number, members in enumerate(_draw_groups(cuts, joining, rng)):
                yield Found(split, join_cuts(f"{speaker}-{rate}-{copy}-{number:05d}", members, rng))


def join_cuts(cut_id: str, cuts: Sequence[MonoCut], rng: random.Random) -> MixedCut:
    """Return `cuts`, of one rate, one after the other with a random silence between, in whole samples."""
    rate = cuts[0].sampling_rate
    tracks, offset = [], 0
    for cut in cuts:
        tracks.append(MixTrack(cut=cut, offset=offset / rate))
        offset += round(cut.duration * rate) + round(rng.uniform(*SILENCE) * rate)
    return MixedCut(id=cut_id, tracks=tracks)


def _draw_groups(cuts: Sequence[MonoCut], joining: Joining, rng: random.Random) -> Iterator[list[MonoCut]]:
    """Yield all of `cuts` in random order, in groups of random size, such that the rest makes a group too."""
    left = rng.sample(cuts, len(cuts))
    while left:
        sizes = range(joining.least, min(joining.most, len(left)) + 1)
        fitting = [size for size in sizes if len(left) - size == 0 or len(left) - size >= joining.least]
        size = rng.choice(fitting or sizes or [len(left)])
        yield left[:size]
        left = left[size:]


def _tables(source: Path) -> list[tuple[str, Path]]:
    """Return the `metadata.csv` files of a source, with the names of their splits."""
    top = source / "metadata.csv"
    below = sorted(source.glob("*/metadata.csv"))
    if top.is_file() and below:
        raise UserError(f"{source} has both metadata.csv and {below[0].relative_to(source)}; keep one or the other")
    if not top.is_file() and not below:
        raise UserError(
            f"{source} has no metadata.csv, neither have folders in it; "
            "write one with the columns file_name,transcription[,speaker_id]"
        )
    return [(TRAIN, top)] if top.is_file() else [(table.parent.name, table) for table in below]


def _read_table(source: Path, split: str, table: Path, needs_speaker: bool) -> Iterator[MetadataRow]:
    needed = ["file_name", "transcription", *(["speaker_id"] if needs_speaker else [])]
    why = "; joining is within a speaker" if needs_speaker else ""
    yield from (_row(source, split, table, row) for row in read_table(table, needed, why))


def _row(source: Path, split: str, table: Path, row: TableRow) -> MetadataRow:
    name = row.fields.get("file_name", "").strip()
    path = table.parent / name
    return MetadataRow(
        split=split,
        id=_id_of(path, source) if name else f"{table.parent.name}/metadata.csv:{row.line}",
        path=path,
        text=row.fields.get("transcription", ""),
        speaker=row.fields.get("speaker_id", "").strip() or without_extension(path).name,
        problem=row.problem if name else "its row has no file_name",
    )


def _id_of(path: Path, source: Path) -> str:
    """Return the path below the source, without extension; the whole path of a file that lies elsewhere."""
    own = path.relative_to(source) if path.is_relative_to(source) else path
    return without_extension(own).as_posix()


def _move_speakers(rows: list[MetadataRow], hold_out: Mapping[str, Sequence[str]]) -> list[MetadataRow]:
    """Return `rows` with the speakers of `hold_out` moved to the splits that it names."""
    place: dict[str, str] = {}
    known = sorted({row.speaker for row in rows})
    for split, speakers in hold_out.items():
        for speaker in speakers:
            if speaker not in known:
                some = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
                raise UserError(f"there is no speaker {speaker!r} to hold out for {split}; speakers are {some}")
            if place.setdefault(speaker, split) != split:
                raise UserError(f"speaker {speaker} is held out for both {place[speaker]} and {split}; choose one")
    return [replace(row, split=place.get(row.speaker, row.split)) for row in rows]


def _mark_repeated(rows: Iterable[MetadataRow]) -> Iterator[MetadataRow]:
    """Yield all rows; of those for one file, all but the first are marked with a problem."""
    seen: set[str] = set()
    problem = "an earlier row has the same file_name (extensions do not count)"
    for row in rows:
        yield replace(row, problem=problem) if row.id in seen else row
        seen.add(row.id)


def _examine(verify: bool, row: MetadataRow) -> Found:
    return Found(row.split, _cut_row(row, verify))


def _cut_row(row: MetadataRow, verify: bool) -> MonoCut | Rejected:
    if row.problem:
        return Rejected(row.id, row.problem)
    try:
        info = check_audio(row.path, None, decode=verify)
    except AudioProblem as problem:
        return Rejected(row.id, str(problem))
    segment = SupervisionSegment(
        id=row.id,
        recording_id=row.id,
        start=0.0,
        duration=info.seconds,
        text=row.text,
        speaker=row.speaker,
    )
    return checked_cut(_recording(row, info), segment)


def _recording(row: MetadataRow, info: AudioInfo) -> Recording:
    return Recording(
        id=row.id,
        sources=[AudioSource(type="file", channels=[0], source=str(row.path))],
        sampling_rate=info.rate,
        num_samples=info.frames,
        duration=info.seconds,
        channel_ids=[0],
    )
