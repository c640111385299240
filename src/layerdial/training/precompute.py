"""Runs the reference once over the training audio, at every speed, and keeps its posteriors on disk."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from layerdial.audio.features import Features
from layerdial.audio.files import change_speed
from layerdial.config.recipe import DataConfig, Recipe
from layerdial.data.batching import pad_inputs, pad_labels, speeds_of
from layerdial.data.loading import reading_ahead
from layerdial.data.manifest import SUFFIX, cut_text, load_samples, open_cuts
from layerdial.data.posteriors import PosteriorStore, Stored, TopPosteriors, checksum_of, key_of, write_shard
from layerdial.data.watched import load_ahead
from layerdial.errors import UserError
from layerdial.models.checkpoint import fingerprint
from layerdial.text.labels import Labels
from layerdial.text.tokenizer import Tokenizer
from layerdial.training.reference import Reference
from layerdial.utils.files import check_writable, write_json
from layerdial.utils.progress import progress

_FORMAT = 1
_SHARD_SECONDS = 3600.0  # of audio in a file: what a kill can lose
_log = logging.getLogger(__name__)
_Missing = Iterator[tuple[Any, tuple[float, ...]]]  # cuts, and the speeds at which they are not stored


def stored_posteriors(recipe: Recipe, reference: Reference, accelerator: Accelerator) -> PosteriorStore:
    """The posteriors of every training cut at every speed; what is not stored yet is computed now, by the first rank.

    Computed from the audio as it is: in full precision for CTC, whatever the run's, and for a decoder, whose audio is
    padded to 30 s, in the run's. They lie in `data.posteriors`, by default
    beside the manifest, in a folder whose name is a hash of the reference's weights, its features and `top_k`.
    Raises `UserError` when something is to be computed and the place cannot be written.
    """
    asked = recipe.objective.asks_reference()
    assert asked is not None
    top_k = asked.top_k
    vocabulary = len(reference.tokenizer.tokens)
    made_by = {
        "format": _FORMAT,
        "reference_weights": fingerprint(reference.folder),
        "features": repr(reference.network.features),
        "vocabulary": vocabulary,
        "top_k": top_k,
    }
    if reference.network.labels.teacher_forced:
        made_by["precision"] = recipe.train.precision
    folder = _place(recipe.data) / hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:16]
    if accelerator.is_main_process:
        source = _Source(reference.network.features, reference.network.labels, reference.tokenizer)
        _forget_changed(PosteriorStore(folder, vocabulary), recipe.data, source)
        if missing := sum(len(speeds) for _, speeds in _missing(recipe.data, PosteriorStore(folder, vocabulary))):
            _begin(folder, {**made_by, "reference": str(reference.folder)})
            _compute(folder, recipe.data, reference, source, accelerator, top_k, missing)
    accelerator.wait_for_everyone()
    return PosteriorStore(folder, vocabulary)


def _place(data: DataConfig) -> Path:
    return data.posteriors or data.train.with_name(data.train.name.removesuffix(SUFFIX) + ".posteriors")


def _begin(folder: Path, made_by: dict[str, Any]) -> None:
    try:
        check_writable(folder)
        write_json(folder / "meta.json", made_by)
    except UserError as problem:
        raise UserError(f"{problem} (data.posteriors says where the reference's posteriors go)") from problem


def _cuts(data: DataConfig) -> Iterator[Any]:
    """The cuts that training uses, as the manifest has them."""
    return (cut for cut in open_cuts(data.train) if cut.duration <= data.max_seconds)


def _missing(data: DataConfig, store: PosteriorStore) -> _Missing:
    for cut in _cuts(data):
        speeds = tuple(speed for speed in speeds_of(data) if store.shard(cut.id, speed) is None)
        if speeds:
            yield cut, speeds


@dataclass(frozen=True)
class _Source:
    """How cuts become the reference's inputs and, where it has a decoder, labels. It goes to the workers."""

    features: Features
    rule: Labels
    tokenizer: Tokenizer

    def labels(self, cut: Any) -> list[int]:
        """Return the labels of a cut that a decoder is given; none for CTC. `UserError` where they are too many."""
        if not self.rule.teacher_forced:
            return []
        labels = self.tokenizer.encode(cut_text(cut))
        self.rule.check(0, labels)
        return labels


def _forget_changed(store: PosteriorStore, data: DataConfig, source: _Source) -> None:
    """Remove the shards of a corpus that was made anew under the same names.

    One cut of each is listened to. A single cut that has changed is found when training comes to it.
    """
    changed = list(_changed(store, data, source))
    if changed:
        _log.warning("%s: the audio has changed, the reference's posteriors are computed again", store.folder)
    for shard in changed:
        try:
            shard.unlink()
        except OSError as error:
            raise UserError(f"{shard} is of other audio and cannot be removed: {error.strerror or error}") from None


def _changed(store: PosteriorStore, data: DataConfig, source: _Source) -> Iterator[Path]:
    unheard = set(store.shards)
    for cut, speed in ((cut, speed) for cut in _cuts(data) for speed in speeds_of(data)):
        if not unheard:
            return
        shard = store.shard(cut.id, speed)
        if shard not in unheard:
            continue
        try:
            samples, labels = load_samples(cut), source.labels(cut)
        except UserError:
            continue
        unheard.remove(shard)
        if not store.matches(cut.id, speed, samples, source.rule.checksum(labels)):
            yield shard


def _compute(
    folder: Path,
    data: DataConfig,
    reference: Reference,
    source: _Source,
    accelerator: Accelerator,
    top_k: int,
    missing: int,
) -> None:
    """Write what is missing, a shard at a time; after a kill the next call goes on behind the last shard."""
    features = source.features
    utterances: list[Stored] = []
    seconds, done = 0.0, 0
    with progress("posteriors of the reference", missing) as update:
        for batch in _batches(data, PosteriorStore(folder, len(reference.tokenizer.tokens)), source):
            utterances += _utterances(batch, reference, accelerator, top_k)
            seconds += batch.lengths_B.sum().item() / features.per_second
            done += batch.asked
            if seconds >= _SHARD_SECONDS:
                write_shard(folder, utterances)
                utterances, seconds = [], 0.0
            update(done)
        if utterances:
            write_shard(folder, utterances)


@dataclass(frozen=True)
class _Batch:
    """Cuts at speeds as inputs of the reference; `asked` counts also those whose audio cannot be used."""

    keys: list[int]
    checksums: list[int]
    inputs: Tensor
    lengths_B: Tensor
    labels: list[list[int]]
    asked: int


def _utterances(batch: _Batch, reference: Reference, accelerator: Accelerator, top_k: int) -> Iterator[Stored]:
    if not batch.keys:
        return
    network, device = reference.network, accelerator.device
    given = (pad_labels(batch.labels).to(device),) if network.labels.teacher_forced else ()
    with accelerator.autocast() if given else nullcontext():
        logp = reference.posteriors(batch.inputs.to(device), batch.lengths_B, *given)
    top = TopPosteriors.of(logp, top_k)
    tokens_BTK, logp_BTK = top.tokens.cpu(), top.logp.cpu()
    for row, n_frames in enumerate(network.features.frames(batch.lengths_B).tolist()):
        frames = network.labels.positions(n_frames, batch.labels[row])
        # copied, so that an hour's worth of them does not keep the padded batches
        kept = TopPosteriors(tokens_BTK[row, :frames].clone(), logp_BTK[row, :frames].clone(), top.vocabulary)
        yield Stored(batch.keys[row], batch.checksums[row], kept)


def _batches(data: DataConfig, store: PosteriorStore, source: _Source) -> Iterator[_Batch]:
    groups = _groups(_missing(data, store), data.batch_seconds)
    ahead = reading_ahead(data.workers, data.batch_seconds, source.features, 4)
    return load_ahead(_Hearing(source), groups, ahead, data.read_timeout)


def _groups(missing: _Missing, batch_seconds: float) -> Iterator[list[tuple[Any, tuple[float, ...]]]]:
    """Neighbours of the manifest, together at most `batch_seconds` long with their padding, one cut at least."""
    group: list[tuple[Any, tuple[float, ...]]] = []
    longest, rows = 0.0, 0
    for cut, speeds in missing:
        longest, rows = max(longest, cut.duration / min(speeds)), rows + len(speeds)
        if group and longest * rows > batch_seconds:
            yield group
            group, longest, rows = [], cut.duration / min(speeds), len(speeds)
        group.append((cut, speeds))
    if group:
        yield group


class _Hearing(Dataset[_Batch]):
    """Turns cuts into inputs of the reference; runs in the workers. Training says what cannot be used."""

    def __init__(self, source: _Source) -> None:
        self._source = source

    def __getitem__(self, group: Any) -> _Batch:
        source = self._source
        labels_of: list[list[int]] = []
        keys: list[int] = []
        checksums: list[int] = []
        inputs_of: list[NDArray[np.float32]] = []
        for cut, speeds in group:
            try:
                samples, labels = load_samples(cut), source.labels(cut)
            except UserError:
                continue
            for speed in speeds:
                keys.append(key_of(cut.id, speed))
                checksums.append(checksum_of(samples, source.rule.checksum(labels)))
                inputs_of.append(source.features(change_speed(samples, speed)))
                labels_of.append(labels)
        inputs, lengths_B = pad_inputs(inputs_of)
        return _Batch(keys, checksums, inputs, lengths_B, labels_of, sum(len(speeds) for _, speeds in group))
