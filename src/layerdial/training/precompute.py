"""Runs the reference once over the training audio, at every speed, and keeps its posteriors on disk."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from layerdial.audio.features import Features
from layerdial.audio.files import AudioProblem, change_speed
from layerdial.config.recipe import DataConfig, Recipe
from layerdial.data.batching import pad_inputs, speeds_of
from layerdial.data.loading import reading_ahead
from layerdial.data.manifest import SUFFIX, load_samples, open_cuts
from layerdial.data.posteriors import PosteriorStore, Stored, TopPosteriors, checksum_of, key_of, write_shard
from layerdial.data.watched import load_ahead
from layerdial.errors import UserError
from layerdial.models.checkpoint import fingerprint
from layerdial.training.reference import Reference
from layerdial.utils.files import check_writable, write_json
from layerdial.utils.progress import progress

_FORMAT = 1
_SHARD_SECONDS = 3600.0  # of audio in a file: what a kill can lose
_log = logging.getLogger(__name__)
_Missing = Iterator[tuple[Any, tuple[float, ...]]]  # cuts, and the speeds at which they are not stored


def stored_posteriors(recipe: Recipe, reference: Reference, accelerator: Accelerator) -> PosteriorStore:
    """The posteriors of every training cut at every speed; what is not stored yet is computed now, by the first rank.

    Computed in full precision, whatever the run's, from the audio as it is. They lie in `data.posteriors`, by default
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
    folder = _place(recipe.data) / hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:16]
    if accelerator.is_main_process:
        _forget_changed(PosteriorStore(folder, vocabulary), recipe.data)
        if missing := sum(len(speeds) for _, speeds in _missing(recipe.data, PosteriorStore(folder, vocabulary))):
            _begin(folder, {**made_by, "reference": str(reference.folder)})
            _compute(folder, recipe.data, reference, accelerator.device, top_k, missing)
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


def _forget_changed(store: PosteriorStore, data: DataConfig) -> None:
    """Remove the shards of a corpus that was made anew under the same names.

    One cut of each is listened to. A single cut that has changed is found when training comes to it.
    """
    changed = list(_changed(store, data))
    if changed:
        _log.warning("%s: the audio has changed, the reference's posteriors are computed again", store.folder)
    for shard in changed:
        try:
            shard.unlink()
        except OSError as error:
            raise UserError(f"{shard} is of other audio and cannot be removed: {error.strerror or error}") from None


def _changed(store: PosteriorStore, data: DataConfig) -> Iterator[Path]:
    unheard = set(store.shards)
    for cut, speed in ((cut, speed) for cut in _cuts(data) for speed in speeds_of(data)):
        if not unheard:
            return
        shard = store.shard(cut.id, speed)
        if shard not in unheard:
            continue
        try:
            samples = load_samples(cut)
        except AudioProblem:
            continue
        unheard.remove(shard)
        if not store.matches(cut.id, speed, samples):
            yield shard


def _compute(
    folder: Path, data: DataConfig, reference: Reference, device: torch.device, top_k: int, missing: int
) -> None:
    """Write what is missing, a shard at a time; after a kill the next call goes on behind the last shard."""
    features = reference.network.features
    utterances: list[Stored] = []
    seconds, done = 0.0, 0
    with progress("posteriors of the reference", missing) as update:
        for batch in _batches(data, PosteriorStore(folder, len(reference.tokenizer.tokens)), features):
            utterances += _utterances(batch, reference, device, top_k)
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
    asked: int


def _utterances(batch: _Batch, reference: Reference, device: torch.device, top_k: int) -> Iterator[Stored]:
    if not batch.keys:
        return
    top = TopPosteriors.of(reference.posteriors(batch.inputs.to(device), batch.lengths_B), top_k)
    tokens_BTK, logp_BTK = top.tokens.cpu(), top.logp.cpu()
    frames_B = reference.network.features.frames(batch.lengths_B).tolist()
    for row, frames in enumerate(frames_B):
        # copied, so that an hour's worth of them does not keep the padded batches
        kept = TopPosteriors(tokens_BTK[row, :frames].clone(), logp_BTK[row, :frames].clone(), top.vocabulary)
        yield Stored(batch.keys[row], batch.checksums[row], kept)


def _batches(data: DataConfig, store: PosteriorStore, features: Features) -> Iterator[_Batch]:
    groups = _groups(_missing(data, store), data.batch_seconds)
    ahead = reading_ahead(data.workers, data.batch_seconds, features, 4)
    return load_ahead(_Hearing(features), groups, ahead, data.read_timeout)


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

    def __init__(self, features: Features) -> None:
        self._features = features

    def __getitem__(self, group: Any) -> _Batch:
        keys: list[int] = []
        checksums: list[int] = []
        inputs_of: list[NDArray[np.float32]] = []
        for cut, speeds in group:
            try:
                samples = load_samples(cut)
            except AudioProblem:
                continue
            for speed in speeds:
                keys.append(key_of(cut.id, speed))
                checksums.append(checksum_of(samples))
                inputs_of.append(self._features(change_speed(samples, speed)))
        inputs, lengths_B = pad_inputs(inputs_of)
        return _Batch(keys, checksums, inputs, lengths_B, sum(len(speeds) for _, speeds in group))
