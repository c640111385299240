"""How labels meet audio: aligned with frames by CTC, or written one after another by a decoder."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from layerdial.errors import UserError
from layerdial.text.ctc import ctc_frames_needed


@dataclass(frozen=True)
class FrameLabels:
    """Labels that CTC aligns with the network's frames, whose posteriors are one a frame."""

    teacher_forced = False

    def check(self, n_frames: int, labels: list[int]) -> None:
        """Raise `UserError` when CTC cannot align `labels` with `n_frames` output frames of the network."""
        needed = ctc_frames_needed(labels)
        if not labels:
            raise UserError("the text is empty")
        if needed > n_frames:
            raise UserError(f"the text needs {needed} frames for CTC, the audio gives {n_frames}; is the text right?")

    def positions(self, n_frames: int, labels: list[int]) -> int:
        """Return how many posteriors the network makes of an utterance."""
        return n_frames

    def joined(self, parts: Sequence[list[int]]) -> list[int]:
        """Return the labels of utterances one after the other; none of silence."""
        return [label for part in parts for label in part]

    def checksum(self, labels: list[int]) -> int:
        """Return a checksum of what the posteriors depend on besides the audio: nothing."""
        return 0


@dataclass(frozen=True)
class TokenLabels:
    """Labels that a decoder writes, with an end of text; its posteriors are one a label, given those before it.

    It can write at most `most` of them. `end` is the last one of each text.
    """

    most: int
    end: int
    teacher_forced = True

    def check(self, n_frames: int, labels: list[int]) -> None:
        """Raise `UserError` for more labels than the decoder has positions."""
        if len(labels) > self.most:
            raise UserError(f"the text has {len(labels)} tokens, the decoder writes at most {self.most}")

    def positions(self, n_frames: int, labels: list[int]) -> int:
        """Return how many posteriors the network makes of an utterance."""
        return len(labels)

    def joined(self, parts: Sequence[list[int]]) -> list[int]:
        """Return the labels of utterances one after the other, which end once; silence ends at once."""
        return [*(label for part in parts for label in part if label != self.end), self.end]

    def checksum(self, labels: list[int]) -> int:
        """Return a checksum of the labels, on which the posteriors depend besides the audio."""
        return zlib.crc32(array("l", labels).tobytes())


Labels = FrameLabels | TokenLabels
