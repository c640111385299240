"""A microphone for PortAudio that is a pipe: ALSA's own `file` device reads it, as `.asoundrc` says."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from pathlib import Path

import numpy as np
import pytest

from layerdial.audio.live import BLOCKS_PER_SECOND
from tiny_speech import Floats

RATE = 44100
_DEVICES = """
pcm.pipe { type file slave.pcm "null" file "/dev/null" infile "%s" format "raw" }
pcm.spoken {
  type plug
  slave { pcm "pipe" format S16_LE rate 44100 channels 1 }
  hint { show on description "a pipe" }
}
pcm.!default { type asym capture.pcm "spoken" playback.pcm "null" }
"""


def needs_portaudio() -> None:
    """Skip the test where sounddevice, PortAudio or ALSA is missing."""
    pytest.importorskip("sounddevice", reason="sounddevice or PortAudio is missing", exc_type=(ImportError, OSError))
    if not sys.platform.startswith("linux") or find_library("asound") is None:
        pytest.skip("no ALSA here, whose file device is the microphone of this test")


@contextmanager
def microphone(home: Path, samples: Floats) -> Iterator[dict[str, str]]:
    """Play samples (S,) at 44.1 kHz into a microphone again and again; yield the environment that has it.

    Its name is "spoken", and it is the system's choice.
    """
    os.mkfifo(pipe := home / "microphone.pipe")
    (home / ".asoundrc").write_text(_DEVICES % pipe)
    into, ended = os.open(pipe, os.O_RDWR), threading.Event()
    player = threading.Thread(target=_play, args=(into, samples, ended))
    player.start()
    try:
        yield {**os.environ, "HOME": str(home)}
    finally:
        ended.set()
        player.join()
        os.close(into)


def _play(into: int, samples: Floats, ended: threading.Event) -> None:
    """Write samples, 50 ms at a time, never faster than in real time, and slower where the reader is.

    Of what comes faster PortAudio drops some, and where a block is not whole ALSA repeats old sound.
    """
    import fcntl
    import termios

    data = np.rint(samples * 32767).astype("<i2")
    step, done = RATE // BLOCKS_PER_SECOND, 0
    while not ended.wait(1 / BLOCKS_PER_SECOND):
        unread = int.from_bytes(fcntl.ioctl(into, termios.FIONREAD, bytes(4)), sys.byteorder)
        if unread == 0:
            os.write(into, np.take(data, np.arange(done, done + step), mode="wrap").tobytes())
            done += step
