"""What streams keep between chunks in the runtime: tapes, on which new frames are put behind those before.

A step copies of each stream the past of the blocks that run, into the arrays that the graph takes, and puts what is new
on the tape. Nothing else is copied, until a tape is full. So a block that is skipped costs no more than its new frames.

Shapes: N blocks, B streams, T new frames, R frames of a tape, L frames of left context, K = kernel - 1, P the more of
both, D width, E = 2D, C = E + 2D; F mel bins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerdial.recognition.chunk_model import Kept, StreamCaches, joined_arrays, parted_arrays
from layerdial.subset import BlockSubset

_WINDOWS = 3  # a tape is as long as so many pasts


class Sizes(NamedTuple):
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


class Stretch(NamedTuple):
    """What is new of n blocks in a row: keys and values (n, T, E), and `gated` (n or 1, T, D).

    Where they did not run there are no keys, and their input is in the place of `gated`.
    """

    blocks: slice
    keys_NTE: NDArray[np.float32] | None
    gated_NTD: NDArray[np.float32]


class Tape:
    """Frames of one stream: keys and values (N, R, E), and `gated` (N, R, D). What was written is never changed.

    Of a frame at which a block did not run its input alone is there, in the place of `gated`. Only one may go on behind
    a frame; whoever else would, because a chunk is run twice, begins another tape.
    """

    def __init__(self, sizes: Sizes) -> None:
        """Make a tape whose first P frames are to be filled in."""
        blocks, frames = sizes.blocks, _WINDOWS * sizes.past
        self.keys_NRE = np.empty((blocks, frames, sizes.key_width), np.float32)
        self.gated_NRD = np.empty((blocks, frames, sizes.width), np.float32)
        self._end = [sizes.past]  # taken out by who writes, so that it is one of several threads

    def written(self, start: int, frames: int, new: Sequence[Stretch]) -> bool:
        """Write behind a frame, if that is the last one, and there is room. Return whether it was."""
        end = start + frames
        if end > self.gated_NRD.shape[1]:
            return False
        try:
            found = self._end.pop()
        except IndexError:
            return False
        if found == start:
            self.put(start, frames, new)
        self._end.append(end if found == start else found)
        return found == start

    def put(self, start: int, frames: int, new: Sequence[Stretch]) -> None:
        """Write the last frames of what is new."""
        for blocks, keys_NTE, gated_NTD in new:
            first = gated_NTD.shape[1] - frames
            self.gated_NRD[blocks, start : start + frames] = gated_NTD[:, first:]
            if keys_NTE is not None:
                self.keys_NRE[blocks, start : start + frames] = keys_NTE[:, first:]


class KeptStream(NamedTuple):
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
        tape.keys_NRE[:, : sizes.past] = tape.gated_NRD[:, : sizes.past] = 0.0
        return cls(sizes, tape, sizes.past, 0, (0,) * sizes.blocks, *zeros)

    @classmethod
    def of(cls, caches: StreamCaches, sizes: Sizes) -> KeptStream:
        """Return what caches of one stream hold."""
        made = cls.begin(sizes).tape
        past = sizes.past
        made.keys_NRE[:, past - sizes.left : past] = caches.keys_NBLE[:, 0]
        made.gated_NRD[:, past - sizes.left : past] = caches.keys_NBLE[:, 0, :, : sizes.width]  # inputs of raw frames
        made.gated_NRD[:, past - sizes.before : past] = caches.gated_NBKD[:, 0]
        missed = tuple(int(np.flatnonzero(row_P).min(initial=past)) for row_P in caches.raw_NBP[:, 0])
        seen, front = int(caches.seen_B[0]), (caches.input_B1F, caches.middle_B1D)
        return cls(sizes, made, past, seen, tuple(past - first for first in missed), *front)

    @property
    def keys_NLE(self) -> NDArray[np.float32]:
        """Keys and values; where a block missed a frame, anything. See `put_raw`."""
        return self.tape.keys_NRE[:, self.end - self.sizes.left : self.end]

    @property
    def gated_NKD(self) -> NDArray[np.float32]:
        return self.tape.gated_NRD[:, self.end - self.sizes.before : self.end]

    @property
    def raw_NP(self) -> NDArray[np.bool_]:
        past = self.sizes.past
        return np.arange(past) >= past - np.array(self.missed_N)[:, None]

    def arrays(self) -> StreamCaches:
        """Return copies of what is kept, as arrays."""
        keys_NLE = self.keys_NLE.copy()
        self.put_raw(range(self.sizes.blocks), keys_NLE)
        seen_1 = np.array([self.seen], np.int64)
        front = self.input_11F.copy(), self.middle_11D.copy()
        return StreamCaches(seen_1, *front, keys_NLE[:, None], self.gated_NKD[:, None].copy(), self.raw_NP[:, None])

    def put_raw(self, blocks: Iterable[int], keys_NLE: NDArray[np.float32]) -> None:
        """Write the inputs of frames that blocks missed into their keys and values, where they stand for these."""
        for i in blocks:
            frames, width = min(self.missed_N[i], self.sizes.left), self.sizes.width
            inputs_TD = self.tape.gated_NRD[i, self.end - frames : self.end]
            keys_NLE[i, self.sizes.left - frames :, :width] = inputs_TD
            keys_NLE[i, self.sizes.left - frames :, width:] = inputs_TD

    def behind(
        self, frames: int, new: Sequence[Stretch], subset: BlockSubset, front: Sequence[NDArray[np.float32]]
    ) -> KeptStream:
        """Return what is kept behind a chunk at which the blocks of `subset` ran. `front` is kept by the front end."""
        past = self.sizes.past
        tape, end = self.tape, self.end + frames
        if frames and not tape.written(self.end, frames, new):
            tape, end = self._another(min(frames, past), new), past
        missed = tuple(0 if i in subset.kept else min(past, n + frames) for i, n in enumerate(self.missed_N))
        return KeptStream(self.sizes, tape, end, self.seen + frames, missed, *front)

    def caught_up(
        self, blocks: Sequence[int], keys_NLE: NDArray[np.float32], gated_NKD: NDArray[np.float32]
    ) -> KeptStream:
        """Return what is kept where some blocks have the frames that they missed."""
        late = [i for i in blocks if self.missed_N[i]]
        if not late:
            return self
        made = self._replace(tape=self._another(0, ()), end=self.sizes.past)
        for i in late:
            made.keys_NLE[i], made.gated_NKD[i] = keys_NLE[i], gated_NKD[i]
        return made

    def _another(self, frames: int, new: Sequence[Stretch]) -> Tape:
        """Return another tape, with the last frames of this one and up to P new ones behind them."""
        made, past = Tape(self.sizes), self.sizes.past
        kept = past - frames
        made.gated_NRD[:, :kept] = self.tape.gated_NRD[:, self.end - kept : self.end]
        for blocks in stretches_of([i for i, missed in enumerate(self.missed_N) if missed < past]):
            made.keys_NRE[blocks, :kept] = self.tape.keys_NRE[blocks, self.end - kept : self.end]
        made.put(kept, frames, new)
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
        return joined_arrays([one.arrays() for one in self.streams])

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

    def feed(self, sizes: Sizes, subset: BlockSubset, late: Sequence[int]) -> list[NDArray[np.generic]]:
        """Return the caches that the graph takes. Of blocks that do not run, keys, values and `gated` are anything."""
        n, streams = sizes.blocks, self.streams
        keys_NBLE = np.empty((n, len(streams), sizes.left, sizes.key_width), np.float32)
        gated_NBKD = np.empty((n, len(streams), sizes.before, sizes.width), np.float32)
        running = stretches_of(subset.kept)
        for row, one in enumerate(streams):
            keys_NLE, gated_NKD = one.keys_NLE, one.gated_NKD
            for blocks in running:
                keys_NBLE[blocks, row] = keys_NLE[blocks]
                gated_NBKD[blocks, row] = gated_NKD[blocks]
            one.put_raw(late, keys_NBLE[:, row])
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
        entering_BTD: NDArray[np.float32],
        added_RBTC: NDArray[np.float32],
        keys_NBLE: NDArray[np.float32],
        gated_NBKD: NDArray[np.float32],
    ) -> KeptStreams:
        """Return what is kept behind a chunk, of what the graph made: what is new, and what has caught up."""
        new, made = list(_new(entering_BTD, added_RBTC, subset)), list[KeptStream]()
        for row, (one, frames) in enumerate(zip(self.streams, frames_B.tolist(), strict=True)):
            own = one.caught_up(late, keys_NBLE[:, row], gated_NBKD[:, row]) if late else one
            front = input_B1F[row : row + 1], middle_B1D[row : row + 1]
            of_row = [
                Stretch(blocks, None if keys is None else keys[:, row, :frames], gated[:, row, :frames])
                for blocks, keys, gated in new
            ]
            made.append(own.behind(frames, of_row, subset, front))
        return KeptStreams(tuple(made))


def _new(entering_BTD: NDArray[np.float32], added_RBTC: NDArray[np.float32], subset: BlockSubset) -> Iterator[Stretch]:
    """Yield what is new of each stretch of blocks, with an axis of the streams.

    `added_RBTC` has of each of R blocks that ran what it keeps, and what came out of it. Skipped blocks keep that of
    the last block before them, or what entered the first one.
    """
    width, first = entering_BTD.shape[2], 0
    for blocks in stretches_of(subset.kept):
        end = first + blocks.stop - blocks.start
        own_NBTC = added_RBTC[first:end]
        yield Stretch(blocks, own_NBTC[..., : 2 * width], own_NBTC[..., 2 * width : 3 * width])
        first = end
    for blocks in stretches_of([i for i in range(subset.n_blocks) if i not in subset.kept]):
        before = sum(i < blocks.start for i in subset.kept)
        yield Stretch(blocks, None, added_RBTC[before - 1 : before, ..., 3 * width :] if before else entering_BTD[None])


def stretches_of(blocks: Sequence[int]) -> list[slice]:
    """Return stretches of ascending blocks without a gap."""
    starts = [i for i in blocks if i - 1 not in blocks]
    ends = [i + 1 for i in blocks if i + 1 not in blocks]
    return [slice(start, end) for start, end in zip(starts, ends, strict=True)]
