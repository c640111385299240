"""What streams keep between chunks in the runtime: tapes, on which new frames are put behind those before.

A step copies of each stream the past of the blocks that run, into the arrays that the graph takes, and puts what is new
on the tape. Nothing else is copied, until a tape is full. So a block that is skipped costs no more than its new frames.

Shapes: N blocks, B streams, T new frames, R frames of a tape, L frames of left context, K = kernel - 1, P the more of
both, D width, E = 2D, C = E + D; F mel bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from layerdial.recognition.chunk_model import Kept, StreamCaches, joined_arrays, parted_arrays
from layerdial.subset import BlockSubset

_WINDOWS = 3  # a tape is as long as so many pasts


@dataclass(frozen=True)
class Sizes:
    """The sizes of what a stream of one model keeps."""

    blocks: int
    left: int
    before: int
    width: int
    bins: int

    @classmethod
    def of(cls, caches: StreamCaches) -> Sizes:
        blocks, _, left, _ = caches.keys_NBLE.shape
        return cls(blocks, left, caches.gated_NBKD.shape[2], caches.gated_NBKD.shape[3], caches.input_B1F.shape[2])

    @property
    def past(self) -> int:
        return max(self.left, self.before)

    @property
    def key_width(self) -> int:
        return 2 * self.width


class Tape:
    """Frames (N, R, C) of one stream, keys and values beside `gated`. What was written is never changed.

    Only one may go on behind a frame; whoever else would, because a chunk is run twice, begins another tape.
    """

    def __init__(self, sizes: Sizes) -> None:
        """Make a tape whose first P frames are to be filled in."""
        self.frames_NRC = np.empty((sizes.blocks, _WINDOWS * sizes.past, 3 * sizes.width), np.float32)
        self._end = [sizes.past]  # taken out by who writes, so that it is one of several threads

    def written(self, start: int, new_NTC: NDArray[np.float32]) -> bool:
        """Write behind a frame, if that is the last one, and there is room. Return whether it was."""
        end = start + new_NTC.shape[1]
        if end > self.frames_NRC.shape[1]:
            return False
        try:
            found = self._end.pop()
        except IndexError:
            return False
        if found == start:
            self.frames_NRC[:, start:end] = new_NTC
        self._end.append(end if found == start else found)
        return found == start


@dataclass(frozen=True)
class KeptStream:
    """What one stream keeps: a tape up to a frame, and how many of its last frames each block missed."""

    sizes: Sizes
    tape: Tape
    end: int
    seen: int
    missed_N: tuple[int, ...]
    input_11F: NDArray[np.float32]
    middle_11D: NDArray[np.float32]

    @classmethod
    def begin(cls, sizes: Sizes) -> KeptStream:
        zeros = (np.zeros((1, 1, size), np.float32) for size in (sizes.bins, sizes.width))
        tape = Tape(sizes)
        tape.frames_NRC[:, : sizes.past] = 0.0
        return cls(sizes, tape, sizes.past, 0, (0,) * sizes.blocks, *zeros)

    @classmethod
    def of(cls, caches: StreamCaches, sizes: Sizes) -> KeptStream:
        """Return what caches of one stream hold."""
        made = cls.begin(sizes).tape
        past = sizes.past
        made.frames_NRC[:, past - sizes.left : past, : sizes.key_width] = caches.keys_NBLE[:, 0]
        made.frames_NRC[:, past - sizes.before : past, sizes.key_width :] = caches.gated_NBKD[:, 0]
        missed = tuple(int(np.flatnonzero(row_P).min(initial=past)) for row_P in caches.raw_NBP[:, 0])
        seen, front = int(caches.seen_B[0]), (caches.input_B1F, caches.middle_B1D)
        return cls(sizes, made, past, seen, tuple(past - first for first in missed), *front)

    @property
    def keys_NLE(self) -> NDArray[np.float32]:
        return self.tape.frames_NRC[:, self.end - self.sizes.left : self.end, : self.sizes.key_width]

    @property
    def gated_NKD(self) -> NDArray[np.float32]:
        return self.tape.frames_NRC[:, self.end - self.sizes.before : self.end, self.sizes.key_width :]

    @property
    def raw_NP(self) -> NDArray[np.bool_]:
        past = self.sizes.past
        return np.arange(past) >= past - np.array(self.missed_N)[:, None]

    def behind(
        self, new_NTC: NDArray[np.float32], subset: BlockSubset, front: Sequence[NDArray[np.float32]]
    ) -> KeptStream:
        """Return what is kept behind a chunk at which the blocks of `subset` ran. `front` is kept by the front end."""
        frames, past = new_NTC.shape[1], self.sizes.past
        tape, end = self.tape, self.end + frames
        if frames and not tape.written(self.end, new_NTC):
            tape, end = self._another(new_NTC[:, -past:]), past
        missed = tuple(0 if i in subset.kept else min(past, n + frames) for i, n in enumerate(self.missed_N))
        return KeptStream(self.sizes, tape, end, self.seen + frames, missed, *front)

    def caught_up(
        self, blocks: Sequence[int], keys_NLE: NDArray[np.float32], gated_NKD: NDArray[np.float32]
    ) -> KeptStream:
        """Return what is kept where some blocks have the frames that they missed."""
        late = [i for i in blocks if self.missed_N[i]]
        if not late:
            return self
        made = replace(self, tape=self._another(self.tape.frames_NRC[:, :0]), end=self.sizes.past)
        for i in late:
            made.keys_NLE[i], made.gated_NKD[i] = keys_NLE[i], gated_NKD[i]
        return made

    def _another(self, new_NTC: NDArray[np.float32]) -> Tape:
        """Return another tape, with the last frames of this one and up to P new ones behind them."""
        made, past = Tape(self.sizes), self.sizes.past
        kept = past - new_NTC.shape[1]
        made.frames_NRC[:, :kept] = self.tape.frames_NRC[:, self.end - kept : self.end]
        made.frames_NRC[:, kept:past] = new_NTC
        return made


@dataclass(frozen=True)
class KeptStreams:
    """What the streams of a batch keep; those of several batches are joined, and parted, without a copy."""

    streams: tuple[KeptStream, ...]

    @classmethod
    def of(cls, kept: Kept, sizes: Sizes) -> KeptStreams:
        """Return what is kept, also of caches as arrays, which must be of these sizes."""
        if isinstance(kept, KeptStreams):
            return kept
        return cls(tuple(KeptStream.of(own, sizes) for own in parted_arrays(kept.arrays())))

    @property
    def seen_B(self) -> NDArray[np.int64]:
        """Frames of each stream so far."""
        return np.array([one.seen for one in self.streams], np.int64)

    def arrays(self) -> StreamCaches:
        """Return copies of what is kept, as arrays that other programs can read."""
        return joined_arrays(
            [
                StreamCaches(
                    np.array([one.seen], np.int64),
                    one.input_11F,
                    one.middle_11D,
                    one.keys_NLE[:, None],
                    one.gated_NKD[:, None],
                    one.raw_NP[:, None],
                )
                for one in self.streams
            ]
        )

    def parted(self) -> list[Kept]:
        return [KeptStreams((one,)) for one in self.streams]

    def joined(self, others: Sequence[Kept]) -> Kept:
        rest = [other.streams for other in others if isinstance(other, KeptStreams)]
        if len(rest) < len(others):
            return joined_arrays([self.arrays(), *(other.arrays() for other in others)])
        return KeptStreams((*self.streams, *chain.from_iterable(rest)))

    def late(self, subset: BlockSubset) -> list[int]:
        """Return which blocks run now and missed frames of some stream."""
        return [i for i in subset.kept if any(one.missed_N[i] for one in self.streams)]

    def feed(self, sizes: Sizes, subset: BlockSubset, late: bool) -> list[NDArray[np.generic]]:
        """Return the caches that the graph takes. Of blocks that do not run, keys, values and `gated` are anything."""
        n, streams = sizes.blocks, self.streams
        keys_NBLE = np.empty((n, len(streams), sizes.left, sizes.key_width), np.float32)
        gated_NBKD = np.empty((n, len(streams), sizes.before, sizes.width), np.float32)
        running = runs_of(subset)
        for row, one in enumerate(streams):
            keys_NLE, gated_NKD = one.keys_NLE, one.gated_NKD
            for blocks in running:
                keys_NBLE[blocks, row] = keys_NLE[blocks]
                gated_NBKD[blocks, row] = gated_NKD[blocks]
        raw_NBP = np.zeros((n, len(streams), sizes.past), np.bool_)
        if late:
            raw_NBP[:] = np.stack([one.raw_NP for one in streams], axis=1)
        front = (np.concatenate([getattr(one, name) for one in streams]) for name in ("input_11F", "middle_11D"))
        return [self.seen_B, *front, keys_NBLE, gated_NBKD, raw_NBP]

    def behind(
        self,
        subset: BlockSubset,
        late: Sequence[int],
        frames_B: NDArray[np.int64],
        input_B1F: NDArray[np.float32],
        middle_B1D: NDArray[np.float32],
        new_NBTC: NDArray[np.float32],
        keys_NBLE: NDArray[np.float32],
        gated_NBKD: NDArray[np.float32],
    ) -> KeptStreams:
        """Return what is kept behind a chunk, of what the graph made: what is new, and what has caught up."""
        made = list[KeptStream]()
        for row, (one, frames) in enumerate(zip(self.streams, frames_B.tolist(), strict=True)):
            own = one.caught_up(late, keys_NBLE[:, row], gated_NBKD[:, row]) if late else one
            front = input_B1F[row : row + 1], middle_B1D[row : row + 1]
            made.append(own.behind(new_NBTC[:, row, :frames], subset, front))
        return KeptStreams(tuple(made))


def runs_of(subset: BlockSubset) -> list[slice]:
    """Return the stretches of blocks without a gap."""
    starts = [i for i in subset.kept if i - 1 not in subset.kept]
    ends = [i + 1 for i in subset.kept if i + 1 not in subset.kept]
    return [slice(start, end) for start, end in zip(starts, ends, strict=True)]
