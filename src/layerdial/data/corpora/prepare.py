"""The code that all corpora share: checks of recordings and texts, and writing the splits in one step.

A corpus is a function that yields `Found(split, item)`, the item a cut or the reason why there is none. Only a few
chapters of a corpus are in memory at a time.
"""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from lhotse import MonoCut, Recording, SupervisionSegment
from lhotse.cut import Cut

from layerdial.audio.files import AudioInfo, AudioProblem, check_is_file, probe, verify
from layerdial.data.manifest import SUFFIX, CorpusReport, CutWriter, Rejected, cut_writer
from layerdial.errors import UserError
from layerdial.text.normalise import normalise
from layerdial.utils.files import json_text, replacing

ProgressFn = Callable[[str, int, int | None], None]
"""Called as `progress(description, done, total)`; total is None where it is unknown."""

FRAMES_PER_SECOND = 100
SUBSAMPLING = 4
LOWEST_RATE = 8000
_log = logging.getLogger(__name__)
_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Found(NamedTuple):
    """One utterance of a corpus: the split that it belongs to, and its cut or the reason why it is left out."""

    split: str
    item: Cut | Rejected


def write_splits(out: Path, found: Iterable[Found]) -> CorpusReport:
    """Write cuts to `out/<split>.cuts.jsonl.gz` and rejections to `out/rejected.jsonl`; all files appear at the end.

    Splits without a cut get no file. Raises `UserError` if there is no cut at all or `out` cannot be written.
    """
    rejected: list[Rejected] = []
    with ExitStack() as stack:
        writers: dict[str, CutWriter] = {}
        place = stack.enter_context(replacing(out / "rejected.jsonl"))
        files = stack.enter_context(ExitStack())  # closed before anything is renamed
        for split, item in found:
            if isinstance(item, Rejected):
                rejected.append(item)
                continue
            if split not in writers:
                writers[split] = _open_writer(out / f"{split}{SUFFIX}", stack, files)
            writers[split].write(item)
        files.close()
        if not writers:
            raise UserError(_nothing_left(out, rejected))
        place.write_text("".join(_as_line(r) for r in rejected), encoding="utf-8")
    _warn_of_leftovers(out, set(writers))
    summaries = {split: writer.summary for split, writer in writers.items()}
    return CorpusReport(out, summaries, tuple(rejected), out / "rejected.jsonl")


def check_audio(path: Path, rate: int | None, decode: bool) -> AudioInfo:
    """Return the header of a usable recording: mono, at `rate` Hz (None: any from 8 kHz up), decoded if `decode`.

    Raises `AudioProblem` with the path, what was found and what would be right.
    """
    check_is_file(path)
    info = verify(path) if decode else probe(path)
    if info.channels != 1:
        raise AudioProblem(f"{path} has {info.channels} channels, training takes 1; mix it down first")
    if rate is not None and info.rate != rate:
        raise AudioProblem(f"{path} is at {info.rate} Hz, this corpus is at {rate} Hz")
    if info.rate < LOWEST_RATE:
        raise AudioProblem(f"{path} is at {info.rate} Hz, too low for speech; {LOWEST_RATE} Hz is the least")
    return info


def text_problem(text: str, seconds: float) -> str | None:
    """Return the reason why CTC cannot align `text` with so much audio, or None.

    A token needs a frame of its own, of 40 ms after the front end. Tokens are not known yet; there are at least as many
    as words. The training loader checks again with the real tokenizer.
    """
    words = len(text.split())
    if words == 0:
        return "its text is empty"
    frames = math.ceil(round(seconds * FRAMES_PER_SECOND) / SUBSAMPLING)
    if words > frames:
        return f"its text of {words} words does not fit into {frames} frames ({seconds:.2f} s)"
    return None


def checked_cut(recording: Recording, segment: SupervisionSegment) -> MonoCut | Rejected:
    """Return the stretch of `recording` that `segment` transcribes, with normalised text, as a cut, or its rejection.

    `segment.start` and `.duration` are seconds within the recording. The cut has this one supervision.
    """
    segment.text = normalise(segment.text or "")
    problem = text_problem(segment.text, segment.duration)
    if problem is not None:
        return Rejected(segment.id, problem)
    start, segment.start = segment.start, 0.0
    return MonoCut(
        id=segment.id,
        start=start,
        duration=segment.duration,
        channel=0,
        recording=recording,
        supervisions=[segment],
    )


def in_order(work: Callable[[_In], _Out], items: Iterable[_In], threads: int | None = None) -> Iterator[_Out]:
    """Yield `map(work, items)`, computed on threads, in the order of the items.

    Threads are enough, since decoding releases the interpreter lock. The number of items ahead is bounded.
    """
    count = threads or min(8, (os.cpu_count() or 1) * 2)
    iterator = iter(items)
    with ThreadPoolExecutor(count) as pool:
        waiting: deque[Future[_Out]] = deque(pool.submit(work, item) for item in islice(iterator, 4 * count))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(work, item) for item in islice(iterator, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()


def counted(items: Iterable[_In], progress: ProgressFn | None, description: str, total: int | None) -> Iterator[_In]:
    """Yield `items`, and report how many have passed."""
    for done, item in enumerate(items, start=1):
        yield item
        if progress is not None:
            progress(description, done, total)


def existing_folder(source: str | Path) -> Path:
    """Return `source` as an absolute path. Raises `UserError` if there is no such folder."""
    folder = Path(source).absolute()
    if not folder.is_dir():
        found = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{source} {found}; give the folder that holds the corpus")
    return folder


def _open_writer(path: Path, stack: ExitStack, files: ExitStack) -> CutWriter:
    return files.enter_context(cut_writer(stack.enter_context(replacing(path)), path))


def _as_line(rejected: Rejected) -> str:
    return json_text({"id": rejected.cut_id, "reason": rejected.reason}) + "\n"


def _nothing_left(out: Path, rejected: list[Rejected]) -> str:
    if not rejected:
        return f"nothing to write to {out}: the corpus has no utterances"
    first = rejected[0]
    return f"none of {len(rejected)} utterances can be used; the first, {first.cut_id}: {first.reason}"


def _warn_of_leftovers(out: Path, written: set[str]) -> None:
    for path in sorted(out.glob(f"*{SUFFIX}")):
        split = path.name.removesuffix(SUFFIX)
        if split not in written and not split.startswith("."):
            _log.warning("%s is from an earlier run; delete it if its speakers or texts are now in other splits", path)


def choose_parts(parts: Sequence[str] | None, present: Sequence[str], where: str, known: Sequence[str]) -> list[str]:
    """Return the parts to prepare: those in `parts`, or all that are present. Raises `UserError` for a missing one."""
    if not present:
        raise UserError(f"found none of {', '.join(known)} in {where}; give the folder that holds them")
    for part in parts or ():
        if part not in present:
            raise UserError(f"there is no {part!r} in {where}; present: {', '.join(present)}")
    return list(dict.fromkeys(parts or present))
