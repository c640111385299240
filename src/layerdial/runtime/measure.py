"""Measurement of features and network on this device, in turns, so that other load affects all lengths alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.features import Features
from layerdial.audio.files import SAMPLE_RATE
from layerdial.runtime.profile import ThreadProfile
from layerdial.subset import BlockSubset
from layerdial.utils.timing import measure_in_turns

_MOST_DEPTHS = 9
RunNetwork = Callable[[NDArray[np.float32], BlockSubset], object]
"""One pass over the input of one utterance, (T, F) or (S,), with a subset."""
UsualSearch = Callable[[NDArray[np.float32]], tuple[Callable[[], object], int] | None]


def measure_table(
    features: Features,
    run: RunNetwork,
    subsets: Mapping[int, BlockSubset],
    threads: int,
    seconds: Sequence[float],
    budget_s: float,
    repeats: int = 15,
    usual_search: UsualSearch = lambda inputs: None,
) -> ThreadProfile:
    """Return median milliseconds of `features` and of `run` with the subset of each depth, at each length of audio.

    Where a decoder follows, `usual_search` returns what writes a text of usual length, and its steps. All depths and
    lengths take turns, for about `budget_s` seconds. `threads` is the number that `run` uses, for the record.
    """
    samples = [_noise(length) for length in seconds]
    inputs = [features(one) for one in samples]
    runs: list[Callable[[], object]] = [partial(features, one) for one in samples]
    runs += [partial(run, one, subset) for subset in subsets.values() for one in inputs]
    searches = [search for one in inputs if (search := usual_search(one)) is not None]
    runs += [write for write, _ in searches]
    cpu, wall = time.process_time(), time.perf_counter()
    found = measure_in_turns(runs, 1, repeats, budget_s, least=1)
    share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    n = len(seconds)
    rows = [tuple(round(ms, 4) for ms in found[i : i + n]) for i in range(0, len(found), n)]
    network = dict(zip(subsets, rows[1:], strict=False))
    tokens = [round(ms / steps, 4) for ms, (_, steps) in zip(rows[-1], searches, strict=False)]
    return ThreadProfile(threads, tuple(seconds), rows[0], network, round(share, 3), token_ms=tuple(tokens))


def measured_depths(depths: range) -> tuple[int, ...]:
    """Return all depths of a small encoder, evenly spread ones of a large one: time is linear in between."""
    count = min(len(depths), _MOST_DEPTHS)
    return tuple(dict.fromkeys(round(depth) for depth in np.linspace(depths[0], depths[-1], count)))


def _noise(seconds: float) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0.0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32)
