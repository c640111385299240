"""Samples without a header, as they come over a network or through a pipe: bytes in, floats out.

Shapes: S samples, C channels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PcmForm:
    """How samples come: by libsndfile's name for their kind, of so many bytes each, so many a second."""

    subtype: str
    width: int
    rate: int
    channels: int


class PcmFrames:
    """Turns bytes of one form into samples; how they are split changes nothing."""

    def __init__(self, form: PcmForm) -> None:
        self.form, self._rest = form, b""

    def feed(self, content: bytes) -> NDArray[np.float32]:
        """Return the samples (S, C) that the next bytes bring."""
        import soundfile

        content, form = self._rest + content, self.form
        whole = len(content) // (form.width * form.channels) * form.width * form.channels
        self._rest = content[whole:]
        if not whole:
            return np.zeros((0, form.channels), np.float32)
        found_SC: NDArray[np.float32]
        found_SC, _ = soundfile.read(
            io.BytesIO(content[:whole]),
            dtype="float32",
            always_2d=True,
            format="RAW",
            subtype=form.subtype,
            endian="LITTLE",
            samplerate=form.rate,
            channels=form.channels,
        )
        return found_SC
