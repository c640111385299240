"""One channel of a recording, as of a call whose two sides are the two channels of a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from layerdial.audio.layout import AudioProblem
from layerdial.audio.piped import PipedAudio, hold

SIDES = ("left", "right")
"""The names of the channels of stereo."""


@dataclass(frozen=True)
class Channel:
    """A channel of a recording: a number from 1 on, or left or right. It stands wherever the recording can stand."""

    recording: str | Path | PipedAudio
    number: int | str

    def __str__(self) -> str:
        return str(self.recording)

    def index(self, channels: int) -> int:
        """Return which of `channels` it is, from 0 on. Raises `AudioProblem` where there is none such."""
        if self.number in SIDES and channels >= len(SIDES):
            return SIDES.index(str(self.number))
        if isinstance(self.number, int) and 1 <= self.number <= channels:
            return self.number - 1
        has = f"has {channels} channel{'s' * (channels > 1)}"
        names = f"; give a number from 1 to {channels}, left or right" if channels > 1 else "; give 1, or no channel"
        raise AudioProblem(f"{self.recording} {has}, none is {self.number}{names}")

    def name(self, channels: int) -> str:
        """Return what its speaker is called: left or right in stereo, else the number of the channel."""
        index = self.index(channels)
        return SIDES[index] if channels == len(SIDES) else f"channel {index + 1}"


AudioPath = str | Path | PipedAudio | Channel
"""What names audio: a path, what a pipe gave, or one channel of either."""


def hold_all(path: AudioPath) -> Path | PipedAudio | Channel:
    """Return `path`, or what comes out of it where it is a pipe; raises as `hold` does."""
    return replace(path, recording=hold(path.recording)) if isinstance(path, Channel) else hold(path)
