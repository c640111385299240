"""When a decoder writes each token: a monotone path through its attention to the audio (openai-whisper's method).

Some heads of the decoder's cross-attention follow the audio: the alignment heads. Their weights are normalised,
smoothed along time, averaged, and aligned by dynamic programming. Torch and ONNX Runtime give queries and keys; all
else is here.

Shapes: A alignment heads, U tokens of the decoder's input, T encoder frames, D width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

FRAMES_PER_SECOND = 50
_WIDTH = 7  # frames that the median is taken of
_AT_ONCE = 32768  # values that are smoothed at a time, so that they stay in the processor's cache


def first_frames(queries_AUD: NDArray[np.float32], keys_ATD: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the first frame (U,) of the stretch of audio that each step of the decoder reads, the first from 0 on.

    The stretches follow each other and cover the audio. None is empty, unless there are fewer frames than steps.
    """
    weights_AUT = _normalised(_weights(queries_AUD, keys_ATD))
    return best_path(_mean_of_medians(weights_AUT))


def _weights(queries_AUD: NDArray[np.float32], keys_ATD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the attention (A, U, T): the softmax over the frames."""
    found: NDArray[np.float32] = queries_AUD @ keys_ATD.transpose(0, 2, 1)
    found *= queries_AUD.shape[2] ** -0.5
    found -= found.max(axis=2, keepdims=True)
    np.exp(found, out=found)
    found /= found.sum(axis=2, keepdims=True)
    return found


def _normalised(weights_AUT: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the weights of each frame with mean zero and variance one over the tokens; zero where all are alike."""
    weights_AUT = weights_AUT - weights_AUT.mean(axis=1, keepdims=True)
    deviation_A1T = np.sqrt(np.square(weights_AUT).mean(axis=1, keepdims=True))
    deviation_A1T[deviation_A1T == 0] = 1.0
    weights_AUT /= deviation_A1T
    return weights_AUT


def _mean_of_medians(weights_AUT: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the mean (U, T) over the heads of the weights, smoothed along time."""
    n_heads, n_tokens, n_frames = weights_AUT.shape
    rows = max(1, _AT_ONCE // (n_heads * n_frames))
    found = [median_of_seven(weights_AUT[:, i : i + rows]).mean(axis=0) for i in range(0, n_tokens, rows)]
    return np.concatenate(found).astype(np.float64)


def median_of_seven(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the running median over seven values of the last axis, which is mirrored at its ends.

    Of three or fewer values nothing is changed, as in openai-whisper.
    """
    count, around = x.shape[-1], _WIDTH // 2
    if count <= around:
        return x
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(around, around)], mode="reflect")
    sorted_threes = list(_sorted_threes(padded))
    one = padded[..., :count]  # and three after it, and three more
    low1, mid1, high1 = (values[..., 1 : count + 1] for values in sorted_threes)
    low2, mid2, high2 = (values[..., 4 : count + 4] for values in sorted_threes)
    crossed = np.minimum(np.maximum(low1, mid2), np.maximum(mid1, low2))
    third = np.minimum(np.minimum(high1, high2), crossed)  # of the six
    outer = np.minimum(np.maximum(high1, low2), np.maximum(low1, high2))
    fourth = np.minimum(outer, np.maximum(mid1, mid2))
    median: NDArray[np.float32] = np.maximum(third, np.minimum(one, fourth))
    return median


def _sorted_threes(x: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield the least, the middle and the largest of each three values that follow each other on the last axis."""
    lower, higher = np.minimum(x[..., :-1], x[..., 1:])[..., :-1], np.maximum(x[..., :-1], x[..., 1:])[..., :-1]
    third = x[..., 2:]
    yield np.minimum(lower, third)
    yield np.maximum(lower, np.minimum(higher, third))
    yield np.maximum(higher, third)


def best_path(matrix_UT: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return where each row (U,) begins on the path from first to last row and frame that has the largest sum.

    Each step of the path goes on by a frame, and stays in its row or goes to the next. Where there are more rows than
    frames, rows share frames.

    A row is computed at once: with s the row's running sum and e what is reached before it, the best sum at frame t is
    s[t] plus the largest of e[k] - s[k-1] for k up to t, and the row is entered at that k.
    """
    n_rows, n_frames = matrix_UT.shape
    if n_rows > n_frames:
        shared: NDArray[np.int64] = np.arange(n_rows) * n_frames // n_rows
        return shared
    gains, reached = list[NDArray[np.float64]](), np.full(n_frames + 1, -np.inf)
    reached[0] = 0.0  # before the first frame
    for row_T in matrix_UT:
        sums = np.concatenate([[0.0], np.cumsum(row_T)])
        gains.append(reached[:-1] - sums[:-1])
        reached = np.concatenate([[-np.inf], sums[1:] + np.maximum.accumulate(gains[-1])])
    starts, end = np.zeros(n_rows, np.int64), n_frames
    for i in reversed(range(n_rows)):
        starts[i] = end = int(gains[i][:end].argmax())
    return starts
