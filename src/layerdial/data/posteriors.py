"""The reference's posteriors on disk: the most probable tokens of every frame, in shards, read by the data workers.

A frame is stored as its K best tokens with their log-probabilities in half precision, and the log-probability of all
others together. The others share it evenly when the frame is read back. A shard is one safetensors file. The index of
the utterances is held in memory, 36 bytes each for a name of any length. Each utterance has a checksum of its
posteriors; those of shards of earlier versions, which have none, are not checked.

Shapes: B batch, T frames that the network makes, K tokens kept, V vocabulary.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from layerdial.errors import UserError
from layerdial.text.ctc import BLANK
from layerdial.utils.files import replacing

_UNKNOWN = -1  # the sum of what was written before there were any
_LEAST_LOG = -1e4  # a probability of 0 even in double precision, yet finite: 0 * -inf would make a loss NaN


class StalePosteriors(UserError):
    """The error that stored posteriors are not the reference's for this audio: the run stops before it uses them."""


@dataclass(frozen=True)
class TopPosteriors:
    """The best tokens of each frame, most probable first: ids (..., T, K) and log-probabilities (..., T, K + 1).

    The last of the K + 1 is that of all other tokens together.
    """

    tokens: Tensor
    logp: Tensor
    vocabulary: int

    @classmethod
    def of(cls, logp: Tensor, k: int) -> TopPosteriors:
        """Return the stored part of log-probabilities (..., T, V); all of them where V <= k."""
        vocabulary = logp.shape[-1]
        top, tokens = logp.topk(min(k, vocabulary), dim=-1)
        others = logp.scatter(-1, tokens, -torch.inf).logsumexp(dim=-1, keepdim=True)
        kept = torch.cat([top, others], dim=-1).clamp(min=_LEAST_LOG).half()
        return cls(tokens.to(_integer(vocabulary)), kept, vocabulary)

    def expand(self, device: torch.device) -> Tensor:
        """Return log-probabilities (..., T, V) in float32 on `device`, without waiting for it.

        Their exponentials sum to 1.
        """
        tokens = self.tokens.to(device, non_blocking=True).long()
        logp = self.logp.to(device, non_blocking=True).float().log_softmax(dim=-1)  # rounding moved the sum off 1
        n_others = max(self.vocabulary - tokens.shape[-1], 1)
        each = logp[..., -1:] - float(np.log(n_others))
        whole = each.expand(*each.shape[:-1], self.vocabulary).clone()
        return whole.scatter_(-1, tokens, logp[..., :-1])

    def pin_memory(self) -> TopPosteriors:
        """Return the same posteriors in page-locked memory."""
        return replace(self, tokens=self.tokens.pin_memory(), logp=self.logp.pin_memory())


def stack(utterances: Sequence[TopPosteriors]) -> TopPosteriors | None:
    """Return utterances (T_b, K) padded to a batch (B, T, K), as long as the longest, or None without any."""
    if not utterances:
        return None
    tokens, logp = (
        torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        for rows in ([u.tokens for u in utterances], [u.logp for u in utterances])
    )
    return TopPosteriors(tokens, logp, utterances[0].vocabulary)


def placed(parts: Sequence[tuple[int, TopPosteriors]], frames: int, k: int, vocabulary: int) -> TopPosteriors:
    """Return posteriors (frames, K): parts (T_i, K) from the frame given with each, and surely the blank elsewhere."""
    assert BLANK == 0  # so that these are k different tokens, the blank first
    k = min(k, vocabulary)
    tokens = torch.arange(k, dtype=_integer(vocabulary)).repeat(frames, 1)
    logp = torch.tensor([0.0, *[_LEAST_LOG] * k], dtype=torch.float16).repeat(frames, 1)
    for start, part in parts:
        inside = part.tokens[: frames - start]
        tokens[start : start + len(inside)], logp[start : start + len(inside)] = inside, part.logp[: len(inside)]
    return TopPosteriors(tokens, logp, vocabulary)


@dataclass(frozen=True)
class Stored:
    """An utterance of a shard: its key, the checksum of its audio, and its posteriors (T, K)."""

    key: int
    checksum: int
    top: TopPosteriors


def key_of(cut_id: str, speed: float) -> int:
    """Return a 64-bit key of a cut at a speed.

    Two of a million utterances have the same key in one of forty million corpora.
    """
    return int.from_bytes(hashlib.blake2b(f"{speed!r} {cut_id}".encode(), digest_size=8).digest(), "little")


def checksum_of(samples: NDArray[np.float32], of_labels: int = 0) -> int:
    """Return a 32-bit checksum of the samples of a cut, before any change of speed, and of that of its labels."""
    return zlib.crc32(np.ascontiguousarray(samples).data, of_labels)


def write_shard(folder: Path, utterances: Sequence[Stored]) -> None:
    """Write one file with these utterances, complete or not at all. Raises `UserError` where it cannot be written."""
    keys = np.array([u.key for u in utterances], dtype=np.uint64)
    tensors = {
        "keys": keys,
        "checksums": np.array([u.checksum for u in utterances], dtype=np.uint32),
        "frames": np.array([len(u.top.logp) for u in utterances], dtype=np.int32),
        "sums": np.array([_sum(u.top.tokens.numpy(), u.top.logp.numpy()) for u in utterances], dtype=np.uint32),
        "tokens": torch.cat([u.top.tokens for u in utterances]).numpy(),
        "logp": torch.cat([u.top.logp for u in utterances]).numpy(),
    }
    # named by what is in it: two runs that make the same store at the same time write the same files
    name = hashlib.blake2b(keys.tobytes(), digest_size=8).hexdigest()
    with replacing(folder / f"{name}.safetensors") as temporary:
        temporary.write_bytes(save(tensors))


class PosteriorStore:
    """The utterances of a folder of shards; a folder that does not exist holds none.

    Raises `UserError` for a shard that is damaged.
    """

    def __init__(self, folder: Path, vocabulary: int) -> None:
        self.folder = folder
        self.vocabulary = vocabulary
        self.shards = sorted(folder.glob("*.safetensors"))
        shards = [_index(shard) for shard in self.shards]
        keys, checksums, frames, sums = (
            np.concatenate([np.zeros(0, dtype), *(shard[i] for shard in shards)])
            for i, dtype in enumerate((np.uint64, np.uint32, np.int32, np.int64))
        )
        order = np.argsort(keys, kind="stable")
        self._keys, self._checksums, self._frames = keys[order], checksums[order], frames[order]
        self._sums = sums[order]
        self._starts = np.concatenate([np.zeros(0, np.int64), *(_starts(shard[2]) for shard in shards)])[order]
        self._shard_of = np.repeat(np.arange(len(shards), dtype=np.int32), [len(shard[0]) for shard in shards])[order]

    def __len__(self) -> int:
        return len(self._keys)

    @cached_property
    def top_k(self) -> int:
        """The tokens stored of each frame; `UserError` where nothing is stored."""
        if not self.shards:
            raise UserError(f"{self.folder} holds no posteriors")
        with safe_open(self.shards[0], framework="np") as file:
            return int(file.get_slice("tokens").get_shape()[1])

    def shard(self, cut_id: str, speed: float) -> Path | None:
        """Return the file that holds a cut at a speed, or None."""
        found = self._find(cut_id, speed)
        return None if found is None else self.shards[self._shard_of[found]]

    def matches(self, cut_id: str, speed: float, samples: NDArray[np.float32], of_labels: int = 0) -> bool:
        """Return whether the stored posteriors of a cut are those of these samples (S,), before the change of speed.

        `of_labels` is the checksum of the labels, for a reference with a decoder.
        """
        found = self._find(cut_id, speed)
        return found is not None and int(self._checksums[found]) == checksum_of(samples, of_labels)

    def check_audio(self, cut_id: str, speed: float, samples: NDArray[np.float32], of_labels: int = 0) -> None:
        """Raise `StalePosteriors` unless the reference had these samples (S,) and labels under this name."""
        if not self.matches(cut_id, speed, samples, of_labels):
            raise StalePosteriors(
                f"cut {cut_id}: its audio or text is not what the reference had for {self.folder}; "
                "remove that folder and its posteriors are computed again"
            )

    def read(self, cut_id: str, speed: float, frames: int | None = None) -> TopPosteriors:
        """Return posteriors (T, K) of a cut at a speed.

        Raises `StalePosteriors` unless they exist, T is `frames` if that is given, and they are as they were written.
        """
        found = self._find(cut_id, speed)
        if found is None:
            raise StalePosteriors(f"cut {cut_id} at speed {speed:g} has no posteriors in {self.folder}; start again")
        stored, start = int(self._frames[found]), int(self._starts[found])
        if frames is not None and stored != frames:
            raise StalePosteriors(
                f"cut {cut_id} at speed {speed:g} has posteriors of {stored} frames in {self.folder}, the network "
                f"makes {frames} of it; remove that folder and they are computed again"
            )
        # opened anew each time, which is cheap: workers can be forked or spawned, with any number of shards
        shard = self.shards[self._shard_of[found]]
        with safe_open(shard, framework="np") as file:
            tokens, logp = (file.get_slice(name)[start : start + stored] for name in ("tokens", "logp"))
        if self._sums[found] not in (_UNKNOWN, _sum(tokens, logp)):
            raise StalePosteriors(f"{shard} is damaged (cut {cut_id}); remove it and it is computed again")
        return TopPosteriors(torch.from_numpy(tokens), torch.from_numpy(logp), self.vocabulary)

    def _find(self, cut_id: str, speed: float) -> int | None:
        key = np.uint64(key_of(cut_id, speed))
        place = int(np.searchsorted(self._keys, key))
        return place if place < len(self._keys) and self._keys[place] == key else None


def _sum(tokens: NDArray[Any], logp: NDArray[Any]) -> int:
    """Return a 32-bit checksum of stored posteriors (T, K)."""
    return zlib.crc32(np.ascontiguousarray(logp).data, zlib.crc32(np.ascontiguousarray(tokens).data))


def _index(shard: Path) -> tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.int32], NDArray[np.int64]]:
    """Return keys, checksums, frames and sums (or `_UNKNOWN`) of the utterances of a shard, in their order."""
    try:
        with safe_open(shard, framework="np") as file:
            keys, checksums, frames = (file.get_tensor(name) for name in ("keys", "checksums", "frames"))
            stored = file.get_tensor("sums") if "sums" in file.keys() else None  # noqa: SIM118 - it is no mapping
        sums = np.full(len(keys), _UNKNOWN) if stored is None else stored.astype(np.int64)
        return keys, checksums, frames, sums
    except (SafetensorError, OSError) as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{shard} cannot be read ({problem}); remove it and it is computed again") from None


def _starts(frames: NDArray[np.int32]) -> NDArray[np.int64]:
    return np.cumsum(frames, dtype=np.int64) - frames


def _integer(vocabulary: int) -> torch.dtype:
    """Return the smallest type that holds every token id and that torch computes with."""
    if vocabulary <= 256:
        return torch.uint8
    return torch.int16 if vocabulary <= 32768 else torch.int32
