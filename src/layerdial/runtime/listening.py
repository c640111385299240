"""Sound as it comes, cut at its pauses, and the text of each utterance while the sound goes on.

A thread takes the sound and cuts it; whoever iterates recognises what is cut. Times are of `time.monotonic()`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from queue import Queue

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.live import Block, Sound
from layerdial.audio.resampling import Resampler
from layerdial.audio.utterances import Pauses, Segmenter, Stretch
from layerdial.recognizer import Recognizer
from layerdial.request import Request
from layerdial.transcript import Transcript

_MOST_WAITING = 100  # utterances, each of up to 30 s; a microphone then loses sound, which is said


@dataclass(frozen=True)
class Utterance:
    """What was said from `start` to `end`, in seconds since the sound began; the times of the transcript are such too.

    `delay` is the time in seconds from the end of the speech to the text, of which it waited `behind` seconds for the
    utterances before it.
    """

    start: float
    end: float
    transcript: Transcript
    delay: float
    behind: float


def listen(
    recognizer: Recognizer, sound: Sound, request: Request, pauses: Pauses, say: Callable[[str], None]
) -> Iterator[Utterance]:
    """Yield the utterances of a sound until it ends or is stopped; what was being said then is still recognised.

    A deadline counts from the moment at which the pause was noticed, so that the depth falls where speech comes faster
    than it is recognised. `say` gets what a person should know, also from another thread. Raises `UserError` where the
    sound ends by an error, behind the last utterance, and as `Recognizer.answer` does.
    """
    recognizer.answer(np.zeros(SAMPLE_RATE, np.float32), request)  # refused before anyone speaks; the next is quicker
    cutter = _Cutter(sound, pauses, say)
    with cutter:
        for cut in cutter.utterances():
            yield _recognised(recognizer, cut, request)


@dataclass(frozen=True)
class _Cut:
    """A stretch of speech, when its speech ended, and when that was noticed."""

    stretch: Stretch
    spoken: float
    noticed: float


@dataclass(frozen=True)
class _End:
    """The end of the sound, and the error that it ended by."""

    problem: Exception | None = None


def _recognised(recognizer: Recognizer, cut: _Cut, request: Request) -> Utterance:
    behind = time.monotonic() - cut.noticed
    if request.deadline_ms is not None:
        request = replace(request, deadline_ms=max(1.0, request.deadline_ms - 1000 * behind))
    start, end = cut.stretch.start / SAMPLE_RATE, cut.stretch.end / SAMPLE_RATE
    transcript = recognizer.answer(cut.stretch.samples, request).moved(start)
    return Utterance(start, end, transcript, time.monotonic() - cut.spoken, behind)


class HeardSound:
    """How much of a sound came, and when; says what a person should know of it."""

    def __init__(self, sound: Sound, say: Callable[[str], None]) -> None:
        self._sound, self._say = sound, say
        self._seconds = self._now = 0.0  # how much came, and when the last of it

    def take(self, block: Block) -> NDArray[np.float32]:
        """Return the samples (S,) of the next block, with silence in place of what is lost before it."""
        if not self._seconds:
            self._say(f"listening to {self._sound.name}; Ctrl-C ends")
        if block.note:
            self._say(block.note)
        if block.lost:
            self._say(f"{block.lost:.2f} s of sound are lost: it came faster than it was taken")
        missing = np.zeros(round(block.lost * self._sound.rate), np.float32)
        samples: NDArray[np.float32] = np.concatenate([missing, block.samples])
        self._seconds += len(samples) / self._sound.rate
        self._now = block.at
        return samples

    def when(self, seconds: float) -> float:
        """Return the time at which so many seconds of the sound had come."""
        return self._now - (self._seconds - seconds)

    def end(self, waiting: str = "") -> None:
        """Say how long the sound was, and what is still to be done."""
        self._say(f"listened for {self._seconds:.1f} s{waiting}")


class _Cutter:
    """The thread that takes the sound, from the begin of its `with` to the end."""

    def __init__(self, sound: Sound, pauses: Pauses, say: Callable[[str], None]) -> None:
        self._sound = sound
        self._heard = HeardSound(sound, say)
        self._segmenter, self._resampler = Segmenter(pauses), Resampler(sound.rate)
        self._cut = Queue[_Cut | _End](_MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="layerdial listen", daemon=True)
        self._ended = False

    def __enter__(self) -> _Cutter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._sound.stop()
        while not self._ended:  # the thread may wait for room
            self._ended = isinstance(self._cut.get(), _End)
        self._thread.join()

    def utterances(self) -> Iterator[_Cut]:
        """Yield what is cut, to the end of the sound. Raises the error that it ended by."""
        while isinstance(cut := self._cut.get(), _Cut):
            yield cut
        self._ended = True
        if cut.problem is not None:
            raise cut.problem

    def _run(self) -> None:
        problem: Exception | None = None
        try:
            self._follow()
        except Exception as error:  # for the thread that recognises
            problem = error
        self._cut.put(_End(problem))

    def _follow(self) -> None:
        try:
            for block in self._sound.blocks():
                self._take(block)
        finally:  # what came before an error counts
            rest = self._segmenter.feed(self._resampler.feed(np.zeros(0, np.float32), last=True))
            self._put([*rest, *self._segmenter.finish()])
            waiting = self._cut.qsize()
            self._heard.end(f"; {waiting} utterances are still to be written" if waiting > 1 else "")

    def _take(self, block: Block) -> None:
        self._put(self._segmenter.feed(self._resampler.feed(self._heard.take(block))))

    def _put(self, stretches: list[Stretch]) -> None:
        """Hand on stretches that were just cut."""
        for stretch in stretches:
            spoken = self._heard.when(stretch.spoken / SAMPLE_RATE)
            self._cut.put(_Cut(stretch, spoken, time.monotonic()))
