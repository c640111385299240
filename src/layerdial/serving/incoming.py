"""The audio of a Realtime session: bytes in, samples at 16 kHz out, held until they are committed."""

from __future__ import annotations

import base64
import binascii

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.pcm import PcmForm, PcmFrames
from layerdial.audio.resampling import Resampler
from layerdial.serving.problems import Problem

_SUBTYPES = {"audio/pcmu": "ULAW", "audio/pcma": "ALAW"}
Samples = NDArray[np.float32]


class Incoming:
    """Turns bytes of one format into samples at 16 kHz; the resampler keeps its state from one to the next."""

    def __init__(self, kind: str, rate: int) -> None:
        self._kind, self._rate = kind, rate
        self._resampler = Resampler(rate)

    def samples(self, encoded: object) -> Samples:
        """Return the samples (S,) of base64. Raises `Problem` for what is none."""
        if not isinstance(encoded, str):
            raise _bad("audio is no text; give base64")
        try:
            content = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise _bad("audio is no base64") from None
        return self._resampler.feed(self._decoded(content))

    def rest(self) -> Samples:
        """Return the samples that the resampler still has; audio begins anew behind them."""
        found = self._resampler.feed(np.zeros(0, np.float32), last=True)
        self._resampler = Resampler(self._rate)
        return found

    def _decoded(self, content: bytes) -> Samples:
        if self._kind == "audio/pcm":
            if len(content) % 2:
                raise _bad(f"audio has {len(content)} bytes; samples of audio/pcm have two each")
            return np.frombuffer(content, "<i2").astype(np.float32) / np.float32(32768)
        return PcmFrames(PcmForm(_SUBTYPES[self._kind], 1, self._rate, 1)).feed(content)[:, 0]


def _bad(message: str) -> Problem:
    return Problem(400, message, "invalid_value", "audio")
