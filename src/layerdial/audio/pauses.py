"""Where a recording is quiet, by its energy, so that no word lies in a pause.

Shapes: S samples.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE

_PER_SECOND = 100  # of which energies are taken
_SHORTEST = 10  # hundredths of a second: shorter are the stops within words
_SHARE = 0.2  # of the decibels between quiet and loud, up to which it is quiet
_MOST_DB, _LEAST_DB = 60.0, 6.0  # between quiet and loud: digital silence is no measure of a room; noise has no pauses
_NEAR = 0.1  # seconds that a word may reach beyond a pause, or begin before it

Span = tuple[float, float]


def quiet_stretches(samples: NDArray[np.float32]) -> list[Span]:
    """Return the stretches of at least 0.1 s of samples (S,) at 16 kHz that are quiet beside the rest, in seconds."""
    step = SAMPLE_RATE // _PER_SECOND
    count = len(samples) // step
    return quiet_of_energies(np.square(samples[: count * step]).reshape(count, step).mean(axis=1))


def quiet_of_energies(energies: NDArray[np.float32]) -> list[Span]:
    """Return what `quiet_stretches` does, of the energies of each hundredth of a second."""
    count = len(energies)
    if count <= _SHORTEST:
        return []
    decibels = 10 * np.log10(np.convolve(energies, np.full(3, 1 / 3), "same") + 1e-10)
    # as np.quantile, which takes four times as long
    low, high = np.interp((0.05, 0.95), np.linspace(0, 1, count), np.sort(decibels))
    low = max(low, high - _MOST_DB)
    if high - low < _LEAST_DB:
        return []
    quiet = np.concatenate([[False], decibels < low + _SHARE * (high - low), [False]])
    edges = np.flatnonzero(quiet[1:] != quiet[:-1]).reshape(-1, 2)
    return [(first / _PER_SECOND, last / _PER_SECOND) for first, last in edges.tolist() if last - first >= _SHORTEST]


def outside(span: Span, quiet: Iterable[Span]) -> Span:
    """Return a word's start and end without the pauses in which it begins or ends, or which are next to its ends."""
    start, end = span
    for first, last in quiet:
        if first - _NEAR <= start < last < end:
            start = last
        if start < first < end <= last + _NEAR:
            end = first
    return start, end
