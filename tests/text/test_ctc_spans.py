"""The frames of labels: of the best path, and of the most probable path of given labels, which is found in a band."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from layerdial.text.ctc import greedy_ctc
from layerdial.text.ctc_spans import LabelSpan, LikelyFrames, aligned_spans, best_path_spans


def random_logp(frames: int, tokens: int, seed: int, sharp: float = 1.0) -> NDArray[np.float32]:
    x = np.random.default_rng(seed).normal(size=(frames, tokens)) * sharp
    return (x - np.log(np.exp(x).sum(axis=1, keepdims=True))).astype(np.float32)


def likely(*parts: NDArray[np.float32]) -> LikelyFrames:
    frames = LikelyFrames()
    for part in parts:
        frames.feed(part)
    return frames


def best_path(logp_TV: NDArray[np.float32]) -> list[LabelSpan]:
    return best_path_spans(logp_TV.argmax(axis=1).tolist(), logp_TV.max(axis=1))


def test_spans_of_the_best_path_are_its_runs() -> None:
    logps = np.log(np.array([0.9, 0.5, 0.7, 0.8, 0.6, 0.4], np.float32))
    found = best_path_spans([0, 2, 2, 0, 2, 1], logps)
    assert [(span.label, span.first, span.end) for span in found] == [(2, 1, 3), (2, 4, 5), (1, 5, 6)]
    assert [round(float(np.exp(span.logp)), 3) for span in found] == [0.7, 0.6, 0.4]
    assert best_path_spans([], np.zeros(0, np.float32)) == best_path_spans([0, 0], logps[:2]) == []


@pytest.mark.parametrize("band", [8, 256])
@pytest.mark.parametrize("seed", range(10))
def test_the_path_of_greedy_labels_is_the_best_path_of_all(seed: int, band: int) -> None:
    logp_TV = random_logp(60, 5, seed, sharp=3.0)
    labels = greedy_ctc(logp_TV.argmax(axis=1).tolist())
    assert aligned_spans(labels, likely(logp_TV[:25], logp_TV[25:]), band) == best_path(logp_TV)


@pytest.mark.parametrize("labels", [[1], [1, 2], [2, 2], [1, 2, 1], [3, 3, 1]], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_the_path_of_labels_is_the_most_probable_of_all_their_paths(labels: list[int], seed: int) -> None:
    logp_TV = random_logp(6, 4, seed)
    paths = [path for path in itertools.product(range(4), repeat=6) if greedy_ctc(path) == labels]
    logps = [np.array([logp_TV[t, token] for t, token in enumerate(path)]) for path in paths]
    best = max(range(len(paths)), key=lambda i: logps[i].sum())
    assert aligned_spans(labels, likely(logp_TV)) == best_path_spans(paths[best], logps[best])


def test_labels_without_a_path_are_an_error_and_none_have_no_spans() -> None:
    with pytest.raises(ValueError, match="3 labels have no path through 4 frames"):
        aligned_spans([1, 1, 1], likely(random_logp(4, 3, 0)))
    assert aligned_spans([], likely(random_logp(4, 3, 0))) == aligned_spans([], likely()) == []
