"""Batches made of cuts on disk, in worker processes.

Order, speed perturbation and pauses are pure functions of (seed, epoch). So a run that resumes at a batch continues
with exactly the batch that would have come. Shapes: B batch, T frames, F mel bins, U labels.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from layerdial.audio.features import Features, WhisperMel
from layerdial.audio.files import SAMPLE_RATE, AudioProblem, change_speed
from layerdial.audio.windows import pieces
from layerdial.config.recipe import READ_TIMEOUT, DataConfig
from layerdial.data.loading import reading_ahead
from layerdial.data.manifest import Rejected, cut_text, load_samples, open_cuts
from layerdial.data.pauses import Example, Spoken, changes_samples, examples, most_seconds
from layerdial.data.posteriors import PosteriorStore, StalePosteriors, TopPosteriors, placed, stack
from layerdial.data.watched import load_ahead
from layerdial.errors import UserError
from layerdial.recognizer import FeatureBatch, collate_features
from layerdial.text.labels import FrameLabels, Labels
from layerdial.text.normalise import normalise
from layerdial.text.tokenizer import Tokenizer
from layerdial.utils.bounded import BoundedMap

_log = logging.getLogger(__name__)
FRAME_LABELS = FrameLabels()
_CACHED_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True)
class Batch:
    """Utterances for a training step. Lengths stay on the CPU; `inputs` and `tokens_BU` are moved to the device.

    `inputs` is what the network takes: log-mel (B, T, F) or samples (B, S), zero-padded.

    `epoch` and `position` are the batch's place in the data. `rejected` lists what was left out of it, with reasons.
    `posteriors` (B, T', K) are the reference's, for training that reads them from disk.
    """

    ids: tuple[str, ...]
    inputs: Tensor
    input_lengths_B: Tensor
    tokens_BU: Tensor
    token_lengths_B: Tensor
    audio_seconds: float
    epoch: int
    position: int
    rejected: tuple[Rejected, ...]
    posteriors: TopPosteriors | None = None

    def pin_memory(self) -> Batch:
        """Return the same batch in page-locked memory, from which a copy to a GPU does not make the host wait.

        torch's DataLoader calls this when it pins; objects without such a method stay as they are.
        """
        return replace(
            self,
            inputs=self.inputs.pin_memory(),
            input_lengths_B=self.input_lengths_B.pin_memory(),
            tokens_BU=self.tokens_BU.pin_memory(),
            posteriors=self.posteriors and self.posteriors.pin_memory(),
        )


@dataclass(frozen=True)
class Position:
    """The next batch: the number of batches of an epoch that have been used."""

    epoch: int = 0
    batch: int = 0


def training_batches(
    config: DataConfig,
    tokenizer: Tokenizer,
    features: Features,
    seed: int,
    start: Position,
    rank: int = 0,
    world_size: int = 1,
    posteriors: PosteriorStore | None = None,
    labels: Labels = FRAME_LABELS,
) -> Iterator[Batch]:
    """Yield batches without end, epoch after epoch, from `start` on; one without a usable utterance has B = 0.

    With `posteriors` each has those of its utterances. Raises `StalePosteriors` when they are not of this audio, and
    `StalledRead` when files cannot be read for `config.read_timeout`.
    """
    batches = load_ahead(
        _TrainingDataset(config, tokenizer, features, seed, posteriors, labels),
        _EndlessBatches(config, seed, start, rank, world_size),
        reading_ahead(config.workers, most_seconds(config), features, 4),
        config.read_timeout,
        pin_memory=torch.cuda.is_available(),
    )
    return _until_stale(batches)


def _until_stale(batches: Iterator[Batch | StalePosteriors]) -> Iterator[Batch]:
    for batch in batches:
        if isinstance(batch, StalePosteriors):
            raise batch
        yield batch


def speeds_of(config: DataConfig) -> tuple[float, ...]:
    """Return the speeds at which a cut is used."""
    return tuple(dict.fromkeys(config.speeds)) or (1.0,)


class FeatureBatches:
    """The utterances of a manifest as `FeatureBatch`es, which can be iterated several times.

    Features are computed in worker processes and, up to half a gigabyte, kept for the next time. `by_length` puts
    utterances of similar length together, which needs less padding. Raises `UserError` when the manifest is missing,
    empty or damaged, or when none of its cuts can be scored.
    """

    def __init__(
        self,
        cuts: Path,
        features: Features,
        batch_seconds: float = 60.0,
        workers: int = 1,
        by_length: bool = False,
        read_timeout: float = READ_TIMEOUT,
    ) -> None:
        check_scorable(cuts)  # reported now, not at the first evaluation
        self.cuts = cuts
        self.features = features
        self.batch_seconds = batch_seconds
        self.workers = workers
        self.by_length = by_length
        self.read_timeout = read_timeout
        self.rejected: list[Rejected] = []
        self._cache: list[FeatureBatch] | None = None

    def __iter__(self) -> Iterator[FeatureBatch]:
        if self._cache is not None:
            yield from self._cache
            return
        self.rejected = []
        kept, whole = BoundedMap[int, FeatureBatch](_CACHED_BYTES), True
        for number, (batch, rejected) in enumerate(self._load()):
            self.rejected += rejected
            if batch is not None:
                whole = whole and kept.put(number, batch, batch.inputs.nbytes)
                yield batch
        self._cache = kept.values() if whole else None
        if self.rejected:
            first = self.rejected[0]
            _log.warning("%d cuts of %s are left out, the first: %s", len(self.rejected), self.cuts, first.reason)

    def _load(self) -> Iterator[tuple[FeatureBatch | None, list[Rejected]]]:
        from lhotse import CutSet
        from lhotse.dataset import SimpleCutSampler

        cuts = open_cuts(self.cuts)
        if self.by_length:
            cuts = CutSet.from_cuts(sorted(cuts, key=lambda cut: cut.duration))
        sampler = SimpleCutSampler(cuts, max_duration=self.batch_seconds, shuffle=False)
        ahead = reading_ahead(self.workers, self.batch_seconds, self.features, 2)
        return load_ahead(_EvaluationDataset(self.features), sampler, ahead, self.read_timeout)


def check_scorable(cuts: Path) -> None:
    """Return as soon as a cut of a manifest is found that has words and audio that can be read; `UserError` if none.

    Errors over no words would be 0/0, which is no measurement.
    """
    problems: list[str] = []
    for cut in open_cuts(cuts):
        try:
            if normalise(cut_text(cut)):
                load_samples(cut)
                return
            problems.append(f"cut {cut.id}: its text has no words")
        except AudioProblem as problem:
            problems.append(str(problem))
    raise UserError(f"{cuts}: none of its {len(problems)} cuts can be scored; the first, {problems[0]}")


class _EndlessBatches(Sampler[Any]):
    """(epoch, position, cuts), without end: lhotse's bucketing sampler, run in the main process on lazy manifests."""

    def __init__(self, config: DataConfig, seed: int, start: Position, rank: int, world_size: int) -> None:
        self._config = config
        self._seed = seed
        self._start = start
        self._rank, self._world_size = rank, world_size
        self._too_long: set[str] = set()

    def __iter__(self) -> Iterator[tuple[int, int, Any]]:
        epoch, skip = self._start.epoch, self._start.batch
        while True:
            for position, cuts in enumerate(self._sampler(epoch)):
                if position >= skip:
                    yield epoch, position, cuts
            if self._too_long and epoch == self._start.epoch and self._rank == 0:
                _log.info(
                    "%d cuts of %s are longer than %g s (data.max_seconds) and are left out",
                    *(len(self._too_long), self._config.train, self._config.max_seconds),
                )
            epoch, skip = epoch + 1, 0

    def _sampler(self, epoch: int) -> Any:
        from lhotse.dataset import DynamicBucketingSampler

        cuts = open_cuts(self._config.train).filter(self._is_short)
        first_cuts = sum(1 for _ in islice(cuts, self._config.buckets))
        if not first_cuts:
            raise UserError(
                f"{self._config.train} has no cut of at most {self._config.max_seconds} s (data.max_seconds)"
            )
        sampler = DynamicBucketingSampler(
            cuts,
            max_duration=self._config.batch_seconds,
            num_buckets=first_cuts,
            duration_bins=[] if first_cuts == 1 else None,  # lhotse makes no fewer than two buckets by itself
            shuffle=True,
            seed=self._seed,
            rank=self._rank,
            world_size=self._world_size,
        )
        sampler.set_epoch(epoch)
        return sampler

    def _is_short(self, cut: Any) -> bool:
        if cut.duration <= self._config.max_seconds:
            return True
        self._too_long.add(cut.id)
        return False


@dataclass(frozen=True)
class _Input:
    """An example of a batch as the network takes it, its labels, and the reference's posteriors of it, if asked for."""

    id: str
    inputs: NDArray[np.float32]
    labels: list[int]
    posteriors: TopPosteriors | None = None


class _TrainingDataset(Dataset[Batch | StalePosteriors]):
    """The dataset that turns the cuts of one batch into tensors; it runs in the workers.

    Posteriors that do not fit are returned, not raised: a DataLoader would wrap what a worker raises in its traceback.
    """

    def __init__(
        self,
        config: DataConfig,
        tokenizer: Tokenizer,
        features: Features,
        seed: int,
        posteriors: PosteriorStore | None,
        rule: Labels,
    ) -> None:
        self._config = config
        self._rule = rule
        self._tokenizer = tokenizer
        self._features = features
        self._seed = seed
        self._posteriors = posteriors
        self._changes_samples = changes_samples(config)
        self._cache = BoundedMap[tuple[str, float], NDArray[np.float32]](config.cache_mb * 1024 * 1024)

    def __getitem__(self, item: Any) -> Batch | StalePosteriors:
        try:
            return self._batch(*item)
        except StalePosteriors as problem:
            return problem

    def _batch(self, epoch: int, position: int, cuts: Any) -> Batch:
        rejected: list[Rejected] = []
        usable = self._usable(epoch, cuts, rejected)
        made = self._changed(epoch, cuts, usable) if self._changes_samples else [self._unchanged(*u) for u in usable]
        inputs, input_lengths_B = pad_inputs([one.inputs for one in made])
        labels = [one.labels for one in made]
        return Batch(
            tuple(one.id for one in made),
            inputs,
            input_lengths_B,
            pad_labels(labels),
            torch.tensor([len(label) for label in labels], dtype=torch.long),
            sum(len(one.inputs) / self._features.per_second for one in made),
            epoch,
            position,
            tuple(rejected),
            stack([one.posteriors for one in made if one.posteriors is not None]),
        )

    def _usable(self, epoch: int, cuts: Any, rejected: list[Rejected]) -> Iterator[tuple[str, float, Any, list[int]]]:
        """Yield id, speed, what is kept of the audio, and labels of each cut; append the others to `rejected`."""
        for cut in cuts:
            speed = self._speed(epoch, cut.id)
            try:
                labels = self._tokenizer.encode(cut_text(cut))
                kept = self._kept(cut, speed, self._rule.checksum(labels))
                self._rule.check(self._frames(kept), labels)
            except StalePosteriors:
                raise
            except UserError as problem:
                rejected.append(Rejected(cut.id, str(problem)))
                continue
            yield cut.id, speed, kept, labels

    def _kept(self, cut: Any, speed: float, of_labels: int) -> NDArray[np.float32]:
        """Return the input of a cut at a speed, or its samples where these are changed anew in each epoch.

        They are kept for later epochs, up to `cache_mb`.
        """
        kept = self._cache.get((cut.id, speed))
        if kept is not None:
            return kept
        samples = load_samples(cut)
        if self._posteriors is not None:
            self._posteriors.check_audio(cut.id, speed, samples, of_labels)
        kept = change_speed(samples, speed)
        kept = kept if self._changes_samples else self._features(kept)
        self._cache.put((cut.id, speed), kept, kept.nbytes)
        return kept

    def _frames(self, kept: NDArray[np.float32]) -> int:
        """Return the frames that the network makes of what is kept; of samples one fewer at most."""
        inputs = len(kept) * self._features.per_second // SAMPLE_RATE if self._changes_samples else len(kept)
        return self._features.frames(inputs)

    def _unchanged(self, name: str, speed: float, inputs: NDArray[np.float32], labels: list[int]) -> _Input:
        if self._posteriors is None:
            return _Input(name, inputs, labels)
        frames = self._rule.positions(self._frames(inputs), labels)
        return _Input(name, inputs, labels, self._posteriors.read(name, speed, frames))

    def _changed(self, epoch: int, cuts: Any, usable: Iterator[tuple[str, float, Any, list[int]]]) -> list[_Input]:
        """Return the examples that pauses and other levels make of a batch: a function of (seed, epoch, cuts)."""
        name = f"pauses/{self._seed}/{epoch}/{next(iter(cuts)).id}"
        hop, spoken = self._features.samples_per_frame, [Spoken(*u) for u in usable]
        made = examples(spoken, self._config, hop, epoch, name)
        return [self._input_of(example) for example in made]

    def _input_of(self, example: Example) -> _Input:
        inputs = self._features(example.samples)
        labels = self._rule.joined([spoken.labels for _, spoken in example.parts])
        if self._posteriors is None:
            return _Input(example.id, inputs, labels)
        hop, store = self._features.samples_per_frame, self._posteriors
        parts = [(start // hop, store.read(spoken.id, spoken.speed)) for start, spoken in example.parts]
        posteriors = placed(parts, self._features.frames(len(inputs)), store.top_k, store.vocabulary)
        return _Input(example.id, inputs, labels, posteriors)

    def _speed(self, epoch: int, cut_id: str) -> float:
        speeds = self._config.speeds
        if len(speeds) < 2:
            return speeds[0] if speeds else 1.0
        return random.Random(f"speed/{self._seed}/{epoch}/{cut_id}").choice(speeds)


class _EvaluationDataset(Dataset[Any]):
    def __init__(self, features: Features) -> None:
        self._features = features

    def __getitem__(self, cuts: Any) -> tuple[FeatureBatch | None, list[Rejected]]:
        usable: list[tuple[str, NDArray[np.float32], str]] = []
        rejected: list[Rejected] = []
        seconds = 0.0
        for cut in cuts:
            try:
                samples = load_samples(cut)
            except AudioProblem as problem:
                rejected.append(Rejected(cut.id, str(problem)))
                continue
            first, *others = self._pieces(samples)
            usable.append((cut.id, self._features(first), cut_text(cut)))
            usable += [(cut.id, self._features(piece), "") for piece in others]
            seconds += len(samples) / SAMPLE_RATE
        if not usable:
            return None, rejected
        ids, features, texts = zip(*usable, strict=True)
        return collate_features(ids, features, texts, seconds), rejected

    def _pieces(self, samples: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the samples as `transcribe` cuts them: whole, unless the network takes no more than 30 s."""
        return list(pieces(samples)) if isinstance(self._features, WhisperMel) else [samples]


def pad_labels(labels: list[list[int]]) -> Tensor:
    """Return labels (B, U), padded with zeros."""
    if not labels:
        return torch.zeros(0, 0, dtype=torch.long)
    rows = [torch.tensor(label, dtype=torch.long) for label in labels]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def pad_inputs(features: list[NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
    """Return inputs (B, T, F) or (B, S), zero-padded, and their lengths (B,)."""
    if not features:
        return torch.zeros(0, 0, 0), torch.zeros(0, dtype=torch.long)
    batch = collate_features([""] * len(features), features, [""] * len(features), 0.0)
    return torch.from_numpy(batch.inputs), torch.from_numpy(batch.lengths_B)
