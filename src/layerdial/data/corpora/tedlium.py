"""TED-LIUM 3, read by lhotse's parser of STM files.

lhotse's recipe stops at the first file that cannot be read, and trims segments without a message. So it is called a
talk at a time, on files that were checked before. Files that fail the check are reported and left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lhotse import MonoCut, Recording, SupervisionSegment
from lhotse.recipes.tedlium import TEDLIUM_PARTS, _parse_stm_file

from layerdial.audio.files import SAMPLE_RATE, AudioProblem
from layerdial.data.corpora.prepare import (
    Found,
    ProgressFn,
    check_audio,
    checked_cut,
    choose_parts,
    counted,
    existing_folder,
    in_order,
    write_splits,
)
from layerdial.data.manifest import CorpusReport, Rejected, use_libsndfile

_LONGEST_OVERHANG = 0.25  # seconds by which a TED-LIUM segment may run past the end of its talk; it is then trimmed
_CLITIC = r"'(?:s|t|re|ve|ll|d|m)\b"


def prepare_tedlium(
    source: str | Path,
    out: str | Path,
    parts: Sequence[str] | None = None,
    verify: bool = False,
    progress: ProgressFn | None = None,
) -> CorpusReport:
    """Write manifests for train, dev and test of TED-LIUM 3, whose legacy distribution is in `source`.

    Each segment of a talk becomes a cut. Segments with `ignore_time_segment_in_scoring` are not scored as speech and
    are skipped. `clean_tedlium_text` describes the changes to the text. `parts` and `verify` are as for LibriSpeech.
    """
    root = _tedlium_root(existing_folder(source))
    present = [part for part in TEDLIUM_PARTS if (root / part / "stm").is_dir()]
    chosen = choose_parts(parts, present, f"{source}/legacy as parts of TED-LIUM 3", TEDLIUM_PARTS)
    use_libsndfile()
    talks = [(part, talk) for part in chosen for talk in _talks(root / part)]
    results = in_order(partial(_read_talk, root, verify), talks)
    found = (item for talk in counted(results, progress, "TED-LIUM talks", len(talks)) for item in talk)
    return write_splits(Path(out), found)


def clean_tedlium_text(text: str) -> str:
    """Remove `<unk>`, noises and pronunciation numbers, and join clitics that TED-LIUM detaches.

    >>> clean_tedlium_text("i <unk> 'm sure [NOISE] it 's the(2) one we {BREATH} 've got just 'cause")
    "i sure it's the one we've got just 'cause"
    """
    text = re.sub(rf"<unk>(?: +{_CLITIC})?", " ", text, flags=re.IGNORECASE)  # a clitic of an unknown word goes too
    text = re.sub(r"\(\d+\)", "", text)
    text = re.sub(r"<[^>]*>|\[[^\]]*\]|\{[^}]*\}", " ", text)
    return " ".join(re.sub(rf"(?<=\w) +(?={_CLITIC})", "", text, flags=re.IGNORECASE).split())


def _tedlium_root(source: Path) -> Path:
    """Return the folder that holds train, dev and test: below `legacy` in release 3, at the top in releases 1 and 2."""
    for root in (source / "legacy", source / "TEDLIUM_release-3" / "legacy", source):
        if any((root / part / "stm").is_dir() for part in TEDLIUM_PARTS):
            return root
    return source


def _talks(part: Path) -> list[str]:
    return sorted({f.stem for f in part.glob("sph/*.sph")} | {f.stem for f in part.glob("stm/*.stm")})


def _read_talk(root: Path, verify: bool, which: tuple[str, str]) -> list[Found]:
    part, talk = which
    sphere, transcript = root / part / "sph" / f"{talk}.sph", root / part / "stm" / f"{talk}.stm"
    if not transcript.is_file():
        return [Found(part, Rejected(talk, f"{transcript} does not exist, so the talk has no transcript"))]
    try:
        check_audio(sphere, SAMPLE_RATE, decode=verify)
        segments: list[SupervisionSegment] = _parse_stm_file(transcript)
    except AudioProblem as problem:
        return [Found(part, Rejected(talk, str(problem)))]
    except (ValueError, OSError) as error:
        return [Found(part, Rejected(talk, f"{transcript} is not an STM file ({error})"))]
    recording = Recording.from_file(sphere, recording_id=talk)
    return [Found(part, _cut_segment(recording, segment)) for segment in segments]


def _cut_segment(recording: Recording, segment: SupervisionSegment) -> MonoCut | Rejected:
    end = segment.start + segment.duration
    if segment.recording_id != recording.id:
        return Rejected(segment.id, f"it is in the transcript of {recording.id} but names {segment.recording_id}")
    if segment.start < 0 or segment.duration <= 0:
        return Rejected(segment.id, f"it runs from {segment.start} s to {end:g} s")
    if end > recording.duration + _LONGEST_OVERHANG or segment.start >= recording.duration:
        return Rejected(segment.id, f"it ends at {end:.2f} s, its talk at {recording.duration:.2f} s")
    segment.duration = round(min(end, recording.duration) - segment.start, 8)
    segment.text = clean_tedlium_text(segment.text or "")
    return checked_cut(recording, segment)
