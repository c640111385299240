"""LibriSpeech, read by lhotse's recipe.

lhotse's recipe stops at the first file that cannot be read. So it is called an utterance at a time, on files that were
checked before. Files that fail the check are reported and left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lhotse import MonoCut
from lhotse.recipes.librispeech import LIBRISPEECH, MINI_LIBRISPEECH, parse_utterance

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

LIBRISPEECH_PARTS = (*LIBRISPEECH, *MINI_LIBRISPEECH)


def prepare_librispeech(
    source: str | Path,
    out: str | Path,
    parts: Sequence[str] | None = None,
    verify: bool = False,
    progress: ProgressFn | None = None,
) -> CorpusReport:
    """Write a manifest for each part of LibriSpeech in `source` (or `source/LibriSpeech`), such as `train-clean-100`.

    `parts` selects some of them. `verify` decodes every file; by default only headers are read. Audio stays in place.
    Raises `UserError` if no part is there or `out` cannot be written.
    """
    root = existing_folder(source)
    if (root / "LibriSpeech").is_dir():
        root = root / "LibriSpeech"
    present = [part for part in LIBRISPEECH_PARTS if (root / part).is_dir()]
    chosen = choose_parts(parts, present, f"{source} as parts of LibriSpeech", LIBRISPEECH_PARTS)
    use_libsndfile()
    chapters = [(part, file) for part in chosen for file in sorted((root / part).rglob("*.trans.txt"))]
    results = in_order(partial(_read_chapter, root, verify), chapters)
    found = (item for chapter in counted(results, progress, "LibriSpeech chapters", len(chapters)) for item in chapter)
    return write_splits(Path(out), found)


def _read_chapter(root: Path, verify: bool, chapter: tuple[str, Path]) -> list[Found]:
    part, transcripts = chapter
    try:
        lines = [line for line in transcripts.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        return [Found(part, Rejected(transcripts.name, f"{transcripts} cannot be read: {error}"))]
    return [Found(part, _read_utterance(root / part, transcripts.parent, line, verify)) for line in lines]


def _read_utterance(part: Path, folder: Path, line: str, verify: bool) -> MonoCut | Rejected:
    name, *words = line.split(maxsplit=1)
    if not words:
        return Rejected(name, "its text is empty")
    try:
        check_audio(folder / f"{name}.flac", SAMPLE_RATE, decode=verify)
    except AudioProblem as problem:
        return Rejected(name, str(problem))
    parsed = parse_utterance(part, line, {})
    if parsed is None:
        return Rejected(name, f"{folder} is not where its name says it should be, {name.replace('-', '/')}")
    return checked_cut(*parsed)
