"""A folder of spoken utterances: worker processes, audio files, manifests, and a marker for "complete".

On disk: `OUT/audio/<split>/…flac` (16 bit, 16 kHz), `OUT/<split>.cuts.jsonl.gz`, and a marker `OUT/<corpus>.json` with
the settings. Every file appears complete or not at all; the marker's "complete" is written last.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerdial.audio.files import SAMPLE_RATE
from layerdial.data.synthesis.espeak import Utterance, synthesise
from layerdial.errors import UserError
from layerdial.utils.files import read_json, write_json
from layerdial.utils.parent import follow_parent

if TYPE_CHECKING:
    from lhotse import MonoCut

    from layerdial.data.manifest import CorpusReport, Rejected, SplitSummary

SHORTEST = 0.2  # seconds
_FORMAT = 1  # increased when the same settings would give other audio
_CHUNK = 16  # utterances a worker takes at a time
_AHEAD = 8  # chunks per worker waiting

CountFn = Callable[[int, int], None]  # utterances done, utterances in all


@dataclass(frozen=True)
class Reading:
    """One cut to be made: `file` is its audio below `OUT/audio/<split>`, at `rate` Hz; the rest is for `synthesise`."""

    id: str
    utterance: Utterance
    file: str
    seed: tuple[int, ...]
    snr_db: tuple[float, float] | None
    rate: int = SAMPLE_RATE
    reverb: tuple[float, float] | None = None


@dataclass(frozen=True)
class _Spoken:
    job: Reading
    path: Path
    samples: int = 0
    problem: str = ""


def fill_folder(
    out: Path,
    corpus: str,
    settings: Mapping[str, Any],
    jobs: Mapping[str, Iterable[Reading]],
    *,
    workers: int,
    total: int,
    progress: CountFn | None,
) -> CorpusReport:
    """Speak the jobs of every split into `out`, unless its marker shows that this was done with the same settings.

    An interrupted folder of the same settings is continued, one of other settings replaced. Raises UserError where
    `out` holds other manifests or cannot be written, or `workers` is below 1.
    """
    if workers < 1:
        raise UserError(f"workers is {workers}; give 1 or more")
    out = out.resolve()
    if out.is_file():
        raise UserError(f"{out} is a file; give a folder")
    marker = out / f"{corpus}.json"
    wanted = {"corpus": corpus, "format": _FORMAT, "out": str(out), **settings}
    found = _read_marker(marker)
    same = found is not None and found.get("settings") == wanted
    if same and found and (report := _complete(out, found)):
        return report
    _clear(out, marker, found, jobs, keep_audio=same)
    write_json(marker, {"settings": wanted, "splits": dict.fromkeys(jobs), "complete": False})

    from layerdial.data.manifest import CorpusReport, write_cuts

    splits: dict[str, SplitSummary] = {}
    rejected: list[Rejected] = []
    done = itertools.count(1)

    def spoken(split: str) -> Iterator[_Spoken]:
        for result in _speak_all(jobs[split], out / "audio" / split, same, pool, workers):
            if progress:
                progress(next(done), total)
            yield result

    with _pool(workers) as pool:
        for split in jobs:
            splits[split] = write_cuts(_cuts(spoken(split), rejected), out / f"{split}.cuts.jsonl.gz")
    report = CorpusReport(out, splits, tuple(rejected))
    _write_complete(marker, wanted, report)
    return report


# The marker


def _read_marker(marker: Path) -> dict[str, Any] | None:
    try:
        found = read_json(marker)
    except (UserError, OSError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("splits"), dict) else None


def _complete(out: Path, found: Mapping[str, Any]) -> CorpusReport | None:
    """Return the report of a finished folder. None where it is unfinished, or manifests or audio files are missing."""
    from layerdial.data.manifest import CorpusReport, Rejected, SplitSummary

    if not found.get("complete"):
        return None
    splits = {split: SplitSummary(**row | {"path": Path(row["path"])}) for split, row in found["splits"].items()}
    for split, summary in splits.items():
        if not summary.path.is_file() or sum(1 for _ in (out / "audio" / split).rglob("*.flac")) < summary.cuts:
            return None
    return CorpusReport(out, splits, tuple(Rejected(**row) for row in found["rejected"]), reused=True)


def _write_complete(marker: Path, settings: Mapping[str, Any], report: CorpusReport) -> None:
    splits = {split: asdict(summary) | {"path": str(summary.path)} for split, summary in report.splits.items()}
    rejected = [asdict(row) for row in report.rejected]
    write_json(marker, {"settings": settings, "splits": splits, "rejected": rejected, "complete": True})


def _clear(out: Path, marker: Path, found: dict[str, Any] | None, splits: Iterable[str], *, keep_audio: bool) -> None:
    """Remove what an earlier run with this marker left. Raises UserError for files of another origin."""
    if found is None:
        foreign = next((path for split in splits if (path := out / f"{split}.cuts.jsonl.gz").exists()), None)
        if foreign:
            raise UserError(f"{foreign} is there already and {marker.name} is not; give another folder, or remove it")
        return
    try:
        for split in found["splits"]:
            (out / f"{split}.cuts.jsonl.gz").unlink(missing_ok=True)
            if not keep_audio:
                shutil.rmtree(out / "audio" / split, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot replace the corpus in {out}: {error.strerror}; choose another folder") from None


# Speaking


class _Here:
    """A stand-in for the pool where one worker is enough: the calling process."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None: ...


def _pool(workers: int) -> ProcessPoolExecutor | _Here:
    if workers == 1:
        return _Here()
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=follow_parent)


def _speak_all(
    jobs: Iterable[Reading], folder: Path, keep: bool, pool: ProcessPoolExecutor | None, workers: int
) -> Iterator[_Spoken]:
    """Yield the finished jobs, in their order, with only as many held as keep the workers busy."""
    folder.mkdir(parents=True, exist_ok=True)
    remaining = iter(jobs)
    chunks = iter(lambda: list(itertools.islice(remaining, _CHUNK)), [])
    if pool is None:
        for chunk in chunks:
            yield from _speak_chunk(chunk, folder, keep)
        return
    waiting: deque[Future[list[_Spoken]]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_speak_chunk, chunk, folder, keep))
            if len(waiting) > workers * _AHEAD:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _speak_chunk(jobs: Iterable[Reading], folder: Path, keep: bool) -> list[_Spoken]:
    return [_speak_one(job, folder / job.file, keep) for job in jobs]


def _speak_one(job: Reading, path: Path, keep: bool) -> _Spoken:
    """Synthesise, check and write one utterance. keep: a readable file that is there is of the same settings."""
    import soundfile
    import soxr

    if keep and path.exists():
        try:
            return _Spoken(job, path, soundfile.info(path).frames)
        except soundfile.LibsndfileError:
            pass  # not whole: made again below
    if not any(character.isalnum() for character in job.utterance.text):
        return _Spoken(job, path, problem=f"its text {job.utterance.text!r} has no letters or digits")
    samples = synthesise(job.utterance, job.snr_db, job.seed, job.reverb)
    if problem := _fault(samples):
        return _Spoken(job, path, problem=problem)
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if job.rate != SAMPLE_RATE:
            samples = np.clip(soxr.resample(samples, SAMPLE_RATE, job.rate), -1.0, 1.0)
        soundfile.write(temporary, samples, job.rate, format="FLAC", subtype="PCM_16")
        os.replace(temporary, path)
    except (OSError, soundfile.LibsndfileError) as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error}; free the disk or choose another place") from None
    return _Spoken(job, path, len(samples))


def _fault(samples: np.ndarray[Any, np.dtype[np.float32]]) -> str:
    """Return the fault of the samples (S,) at 16 kHz, or an empty text."""
    if len(samples) < SHORTEST * SAMPLE_RATE:
        return f"{len(samples) / SAMPLE_RATE:.2f} s of audio; at least {SHORTEST} s are needed"
    if not np.isfinite(samples).all():
        return "some samples are not finite numbers"
    if np.abs(samples).max() >= 1:
        return "the samples clip"
    return ""


def _cuts(spoken: Iterable[_Spoken], rejected: list[Rejected]) -> Iterator[MonoCut]:
    """Yield the lhotse cuts of the audio files, with the voice as speaker. The others are appended to `rejected`."""
    from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment

    from layerdial.data.manifest import Rejected

    for result in spoken:
        id, said, rate = result.job.id, result.job.utterance, result.job.rate
        seconds = result.samples / rate
        if result.problem:
            rejected.append(Rejected(id, result.problem))
            continue
        source = AudioSource(type="file", channels=[0], source=str(result.path))
        recording = Recording(id, [source], sampling_rate=rate, num_samples=result.samples, duration=seconds)
        words = SupervisionSegment(id, id, 0.0, seconds, text=said.text, language="English", speaker=said.voice)
        yield MonoCut(id, 0.0, seconds, 0, [words], recording=recording)
