"""Audio that comes in parts, cut into stretches of speech at its pauses; memory does not grow with it.

Shapes: S samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.held import HeldSamples
from layerdial.audio.voice import FRAME, VoiceDetector
from layerdial.audio.windows import WINDOW_SECONDS, quiet_cut


@dataclass(frozen=True)
class Pauses:
    """How stretches of speech are found; times in seconds.

    Speech begins at a frame of at least probability `threshold`, and goes on while frames are above `release`. It ends
    where `silence` passes without another frame of `threshold`. What spoke shorter than `speech` is no speech. Each
    stretch has `before` and `after` of what is around it. One longer than `longest` is cut in its longest pause, and
    without any where it is quietest.
    """

    threshold: float = 0.5
    release: float = 0.35
    speech: float = 0.1
    silence: float = 0.5
    before: float = 0.3
    after: float = 0.3
    longest: float = float(WINDOW_SECONDS)

    def __post_init__(self) -> None:
        if not 0 <= self.release <= self.threshold <= 1:
            raise ValueError(f"release {self.release} and threshold {self.threshold} must rise, from 0 to 1")
        if not 0 <= self.after <= self.silence:
            raise ValueError(f"after is {self.after}; it must be at most silence, which is {self.silence}")
        if min(self.speech, self.before) < 0 or self.longest < 1 + self.before + self.silence:
            raise ValueError(f"{self} has negative times, or a longest that leaves no second for speech")


@dataclass(frozen=True)
class Stretch:
    """A stretch of speech: samples (S,) at 16 kHz, from sample `start` up to `end` of all audio that came.

    Its last speech ends at sample `spoken`, in front of what it has of the pause.
    """

    start: int
    end: int
    samples: NDArray[np.float32]
    spoken: int


class Segmenter:
    """Finds the stretches of speech of audio that comes in parts; how it is split changes nothing."""

    def __init__(self, pauses: Pauses | None = None) -> None:
        self._pauses = pauses or Pauses()
        self._detector = VoiceDetector()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._held = HeldSamples()
        self._at = 0  # samples whose frames are done
        self._done = 0  # where the last stretch ended
        self._start: int | None = None  # of the stretch that goes on
        self._quiet: int | None = None  # where the pause began that may end it
        self._gaps: list[tuple[int, int]] = []  # the pauses within it
        self._spoken = 0  # samples of its frames with speech
        self._cut = False  # whether it goes on behind a cut

    @property
    def speaking(self) -> bool:
        """True while a stretch of speech goes on."""
        return self._start is not None

    @property
    def since(self) -> int | None:
        """The first sample of the stretch that goes on; None where nobody speaks."""
        return self._start

    def feed(self, samples: NDArray[np.float32]) -> list[Stretch]:
        """Return the stretches that end with the next samples (S,) at 16 kHz, in order."""
        self._held.append(samples)
        return list(self._stretches(self._detector.feed(samples)))

    def finish(self) -> list[Stretch]:
        """Return the rest, where audio ends; then begin anew."""
        found = list(self._stretches(self._detector.finish()))
        if self._start is not None:
            found += self._ended(self._at if self._quiet is None else self._quiet + _samples(self._pauses.after))
        self._begin_anew()
        return found

    def _stretches(self, probabilities: NDArray[np.float32]) -> Iterator[Stretch]:
        for probability in probabilities.tolist():
            begin, self._at = self._at, self._at + FRAME
            if probability >= self._pauses.threshold:
                self._speech(begin)
            elif self._start is not None and self._quiet is None and probability < self._pauses.release:
                self._quiet = begin
            if self._start is None:
                self._held.forget(self._at - _samples(self._pauses.before))
            elif self._quiet is not None and self._at - self._quiet >= _samples(self._pauses.silence):
                yield from self._ended(self._quiet + _samples(self._pauses.after))
            else:
                self._spoken += FRAME if self._quiet is None else 0
                if self._at - self._start > _samples(self._pauses.longest) - FRAME:
                    yield from self._parted()

    def _speech(self, begin: int) -> None:
        """Go on with a frame of speech that begins at a sample."""
        if self._start is None:
            self._start = max(self._done, begin - _samples(self._pauses.before))
        if self._quiet is not None:
            self._gaps.append((self._quiet, begin))
            self._quiet = None

    def _ended(self, end: int) -> Iterator[Stretch]:
        """Yield the stretch up to `end`, if there is speech in it."""
        if self._cut or self._spoken >= _samples(self._pauses.speech):
            yield self._taken(end)
        self._start = self._quiet = None
        self._spoken, self._cut, self._gaps = 0, False, []

    def _parted(self) -> Iterator[Stretch]:
        """Yield the first part of a stretch that has become too long; it goes on behind, or a pause ends it."""
        assert self._start is not None
        third = self._start + _samples(self._pauses.longest) // 3
        now = self._at if self._quiet is None else self._quiet
        gaps = [*(gap for gap in self._gaps if sum(gap) // 2 > third), (now, self._at)]
        first, last = max(gaps, key=lambda gap: gap[1] - gap[0])
        if first < last == self._at:
            yield from self._ended(min(first + _samples(self._pauses.after), last))
            return
        cut = (first + last) // 2
        if first == last:
            held = self._held.between(self._start, self._at)
            cut = self._start + quiet_cut(held, len(held))
        yield self._taken(cut)
        self._start, self._cut, self._spoken = cut, True, 0
        self._gaps = [gap for gap in self._gaps if gap[0] >= cut]

    def _taken(self, end: int) -> Stretch:
        """Return the stretch up to `end`, and forget its samples."""
        assert self._start is not None
        self._done = end = min(end, self._held.end)
        spoken = end if self._quiet is None else min(end, self._quiet)
        found = Stretch(self._start, end, self._held.between(self._start, end), spoken)
        self._held.forget(end)
        return found


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)
