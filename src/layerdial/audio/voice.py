"""Where somebody speaks: Silero's voice activity detector (MIT, version 6.2.3), run by ONNX Runtime, piece by piece.

Shapes: S samples, N frames of 32 ms, H state of the detector.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdial.errors import needing

FRAME = 512
"""Samples at 16 kHz of which each probability is: 32 ms."""

_CONTEXT = 64  # samples before a frame that the detector sees again
_AT_ONCE = 512  # frames of one call, 16 s: more are no faster and take memory
_STATE_H = (1, 1, 128)
_GRAPH = Path(__file__).with_name("silero_vad.onnx")  # silero_vad_16k_sequence.onnx of the package silero-vad


class VoiceDetector:
    """The probability of speech in each 32 ms of audio that comes in parts; how it is split changes nothing."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin with other audio."""
        self._hidden = self._cell = np.zeros(_STATE_H, np.float32)
        self._context = np.zeros(_CONTEXT, np.float32)
        self._rest = np.zeros(0, np.float32)

    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probabilities (N,) of the frames that end within samples (S,) at 16 kHz, in order."""
        held = np.concatenate([self._rest, samples], dtype=np.float32)
        whole = len(held) // FRAME * FRAME
        self._rest = held[whole:].copy()
        step = _AT_ONCE * FRAME
        found = [self._run(held[start : min(start + step, whole)]) for start in range(0, whole, step)]
        return np.concatenate([np.zeros(0, np.float32), *found])

    def finish(self) -> NDArray[np.float32]:
        """Return the probability (1,) of the last frame, which silence makes whole, or (0,); then begin anew."""
        found = self.feed(np.zeros(-len(self._rest) % FRAME, np.float32))
        self.reset()
        return found

    def _run(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probabilities (N,) of whole frames (N * 512,)."""
        frames = np.concatenate([self._context, samples])
        self._context = frames[-_CONTEXT:]
        inputs = np.lib.stride_tricks.sliding_window_view(frames, _CONTEXT + FRAME)[::FRAME]
        fed = {"input": np.ascontiguousarray(inputs), "h": self._hidden, "c": self._cell}
        found: NDArray[np.float32]
        found, self._hidden, self._cell = _session(os.getpid()).run(["speech_probs", "hn", "cn"], fed)
        return found.reshape(-1)


@cache
def _session(process: int) -> Any:
    """Return the ONNX Runtime session of a process. A session may be used by many threads, but not after a fork."""
    with needing("runtime", "voice activity detection needs"):
        import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(_GRAPH.read_bytes(), options, providers=["CPUExecutionProvider"])
