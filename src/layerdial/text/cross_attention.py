"""Where in the audio a decoder reads while it writes each token: the most probable path through its cross-attention.

Some heads of the decoder's cross-attention follow the audio: the alignment heads. The mean of their attention is taken
for the probability that a step reads a frame. Torch and ONNX Runtime give queries and keys; all else is here.
openai-whisper aligns the same heads by dynamic time warping of normalised, median-filtered weights; on speech with
known times the path of log-probabilities is nearer, and cheaper (docs/whisper.md).

Shapes: A alignment heads, U steps of the decoder, T encoder frames, D width of a head.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FRAMES_PER_SECOND = 50
_LEAST = 1e-4  # probability of any frame, so that one frame alone cannot rule out a path


def first_frames(queries_AUD: NDArray[np.float32], keys_ATD: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the first frame (U,) of the stretch of audio that each step of the decoder reads, the first from 0 on.

    The stretches follow each other and cover the audio. None is empty, unless there are fewer frames than steps.
    """
    attention_UT = mean_attention(queries_AUD, keys_ATD)
    return best_path(np.log(attention_UT + np.float32(_LEAST)).astype(np.float64))


def mean_attention(queries_AUD: NDArray[np.float32], keys_ATD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean attention (U, T) of the heads to each frame; a row sums up to one."""
    found: NDArray[np.float32] = queries_AUD @ keys_ATD.transpose(0, 2, 1)
    found *= queries_AUD.shape[2] ** -0.5
    found -= found.max(axis=2, keepdims=True)
    np.exp(found, out=found)
    found /= found.sum(axis=2, keepdims=True)
    mean: NDArray[np.float32] = found.mean(axis=0)
    return mean


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
