"""Audio of any length as overlapping windows, or as pieces cut where it is quiet: memory does not grow with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import LOUDEST, SAMPLE_RATE, AudioPath, open_audio
from layerdial.audio.resampling import Resampler
from layerdial.errors import UserError

WINDOW_SECONDS = 30
CONTEXT_SECONDS = 2
_BLOCK_SECONDS = 10


@dataclass(frozen=True)
class Window:
    """Samples (S,) at 16 kHz: `n_before` samples of left context, `n_kept` that count, and the rest right context.

    The kept parts of all windows, one after the other, are the whole audio. Only the last window may keep a number of
    samples that is not a whole number of seconds.
    """

    samples: NDArray[np.float32]
    n_before: int
    n_kept: int


def windows(audio: AudioPath | NDArray[np.float32]) -> Iterator[Window]:
    """Cut a file, or samples (S,) at 16 kHz, into windows of at most 30 s with 2 s of context on both sides.

    Raises `AudioProblem` for a file that cannot be used, and `UserError` for an array that is not finite float audio.
    """
    context = CONTEXT_SECONDS * SAMPLE_RATE
    core = WINDOW_SECONDS * SAMPLE_RATE - 2 * context
    held = np.zeros(0, dtype=np.float32)
    n_before = 0
    for block in mono_blocks(audio):
        held = np.concatenate([held, block])
        while len(held) > WINDOW_SECONDS * SAMPLE_RATE:
            yield Window(held[: n_before + core + context], n_before, core)
            held = held[n_before + core - context :]
            n_before = context
    yield Window(held, n_before, len(held) - n_before)


def pieces(audio: AudioPath | NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Cut a file, or samples (S,) at 16 kHz, into pieces of at most 30 s, each at the quietest place of its last third.

    Raises as `windows` does.
    """
    longest = WINDOW_SECONDS * SAMPLE_RATE
    held = np.zeros(0, dtype=np.float32)
    for block in mono_blocks(audio):
        held = np.concatenate([held, block])
        while len(held) > longest:
            cut = quiet_cut(held)
            yield held[:cut]
            held = held[cut:]
    yield held


def take_pieces(audio: AudioPath | NDArray[np.float32], take: Callable[[NDArray[np.float32], bool], int]) -> None:
    """Call `take(samples, more)` with 30 s of audio, or with its rest; it returns how many samples are done.

    `samples` begin where those of the call before were done; `more` says that audio follows them. Raises as `windows`
    does.
    """
    longest = WINDOW_SECONDS * SAMPLE_RATE
    held = np.zeros(0, dtype=np.float32)
    for block in mono_blocks(audio):
        held = np.concatenate([held, block])
        while len(held) > longest:
            held = held[take(held[:longest], True) :]
    take(held, False)


def quiet_cut(samples: NDArray[np.float32], longest: int = WINDOW_SECONDS * SAMPLE_RATE) -> int:
    """Return the quietest place of the last third of the first `longest` of at least as many samples (S,)."""
    return _quietest(samples, longest * 2 // 3, longest)


def _quietest(samples: NDArray[np.float32], start: int, end: int) -> int:
    """Return the middle of the stretch of 200 ms between two samples that has the least energy."""
    step, width = SAMPLE_RATE // 100, 20  # of 10 ms each
    energies = np.square(samples[start : start + (end - start) // step * step].reshape(-1, step)).sum(axis=1)
    sums = np.convolve(energies, np.ones(width), mode="valid")
    return start + (int(sums.argmin()) + width // 2) * step


def mono_blocks(audio: AudioPath | NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield a file, or samples (S,) at 16 kHz, in blocks (S,) at 16 kHz. Raises as `windows` does."""
    return _file_blocks(audio) if isinstance(audio, AudioPath) else _array_blocks(audio)


def _file_blocks(path: AudioPath) -> Iterator[NDArray[np.float32]]:
    """Yield mono blocks at 16 kHz. The resampler keeps its state from block to block."""
    with open_audio(path) as (rate, blocks):
        resampler = Resampler(rate)
        for block in blocks:
            yield resampler.feed(block)
        yield resampler.feed(np.zeros(0, dtype=np.float32), last=True)


def _array_blocks(audio: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    samples = checked_samples(audio)
    if not len(samples):
        raise UserError("the array of samples is empty; give at least one sample")
    step = _BLOCK_SECONDS * SAMPLE_RATE
    for start in range(0, len(samples), step):
        yield samples[start : start + step].astype(np.float32, copy=False)


def checked_samples(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return samples (S,). Raises `UserError` for what is no finite float array, or far beyond [-1, 1]."""
    samples = np.asarray(audio)
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise UserError(f"samples must be a float array (S,), found {samples.dtype} of shape {samples.shape}")
    if not np.isfinite(samples).all():
        raise UserError("the array of samples holds values that are not finite")
    _check_loudness(samples)
    return samples


def _check_loudness(samples: NDArray[Any]) -> None:
    """Raise `UserError` for samples far beyond [-1, 1]: most are 16-bit numbers, which would be misrecognised."""
    loudest = float(np.abs(samples).max(initial=0.0))
    if loudest > LOUDEST:
        raise UserError(f"samples go up to {loudest:.6g}; they must lie within [-1, 1]: divide 16-bit numbers by 32768")
