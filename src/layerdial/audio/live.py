"""Sound that comes as time passes, and a file that is played as a microphone would hear it.

Shapes: S samples. Times are of `time.monotonic()`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import AudioPath, check_is_file, open_coming, probe

BLOCKS_PER_SECOND = 20


@dataclass(frozen=True)
class Block:
    """Samples (S,) of one channel, the last of which was there `at` a time.

    Before them `lost` seconds of sound are missing. `note` is what a person should know of the sound up to here.
    """

    samples: NDArray[np.float32]
    at: float
    lost: float = 0.0
    note: str = ""


class Sound(Protocol):
    """Sound that is still to come, of `rate` Hz."""

    @property
    def name(self) -> str: ...

    @property
    def rate(self) -> int: ...

    def blocks(self) -> Iterator[Block]:
        """Yield blocks as they come, once, until the sound ends or `stop` is called. Raises `UserError`."""
        ...

    def stop(self) -> None:
        """End the blocks soon. May be called by any thread and in a signal handler."""
        ...


class PlayedFile:
    """A file that is played in real time. It waits for a slow reader, so nothing of it is lost."""

    def __init__(self, path: Path) -> None:
        check_is_file(path)
        self.name, self.rate = str(path), probe(path).rate
        self._path = path
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def blocks(self) -> Iterator[Block]:
        start, done = time.monotonic(), 0
        for samples, _ in parts_of_file(self._path):
            done += len(samples)
            at = start + done / self.rate
            if self._stopped.wait(max(0.0, at - time.monotonic())):
                return
            yield Block(samples, at)


def parts_of_file(path: AudioPath) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Yield a file in blocks (S,) as short as a microphone's, each with its rate; a WAV file in a pipe as it comes."""
    with open_coming(path) as (rate, blocks):
        step = max(1, rate // BLOCKS_PER_SECOND)
        for block in blocks:
            for start in range(0, len(block), step):
                yield block[start : start + step], rate
