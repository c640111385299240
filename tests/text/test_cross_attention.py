"""The path through a decoder's attention is the best of all paths, and covers the audio in order."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from layerdial.text.cross_attention import best_path, first_frames, mean_attention


def sum_of(matrix_UT: NDArray[np.float64], starts: tuple[int, ...]) -> float:
    ends = (*starts[1:], matrix_UT.shape[1])
    return float(sum(row_T[a:b].sum() for row_T, a, b in zip(matrix_UT, starts, ends, strict=True)))


@pytest.mark.parametrize("seed", range(40))
def test_the_path_is_the_best_of_all_paths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_rows = int(rng.integers(1, 6))
    n_frames = int(rng.integers(n_rows, 10))
    matrix_UT = rng.normal(size=(n_rows, n_frames))
    every = [(0, *later) for later in combinations(range(1, n_frames), n_rows - 1)]
    assert tuple(best_path(matrix_UT)) == max(every, key=lambda starts: sum_of(matrix_UT, starts))


@pytest.mark.parametrize("n_frames", [1, 2, 6, 7, 50])
def test_stretches_follow_each_other_and_none_is_empty_where_frames_suffice(n_frames: int) -> None:
    rng = np.random.default_rng(n_frames)
    queries, keys = (rng.normal(0, 3, (2, n, 4)).astype(np.float32) for n in (7, n_frames))
    starts = first_frames(queries, keys)
    assert starts.shape == (7,) and starts[0] == 0 and starts[-1] < n_frames
    assert (np.diff(starts) >= (1 if n_frames >= 7 else 0)).all()


def test_steps_that_attend_to_places_of_their_own_are_found_there() -> None:
    places = [0, 3, 4, 9]  # of 12 frames, in code: a query is the key of its stretch
    keys = np.zeros((1, 12, 4), np.float32)
    for row, (first, last) in enumerate(zip(places, [*places[1:], 12], strict=True)):
        keys[0, first:last, row] = 9.0
    queries = 9.0 * np.eye(4, dtype=np.float32)[None]
    assert first_frames(queries, keys).tolist() == places
    np.testing.assert_allclose(mean_attention(queries, keys).sum(axis=1), 1.0, rtol=1e-6)


def test_attention_that_is_the_same_everywhere_gives_a_path_all_the_same() -> None:
    starts = first_frames(np.zeros((3, 5, 4), np.float32), np.zeros((3, 20, 4), np.float32))
    assert starts[0] == 0 and (np.diff(starts) >= 1).all() and starts[-1] < 20
