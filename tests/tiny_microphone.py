"""A microphone for PortAudio that is a pipe: ALSA's own `file` device reads it, as `.asoundrc` says."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ctypes.util import find_library
from pathlib import Path

import numpy as np
import pytest

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
    """Play samples (S,) at 44.1 kHz into a microphone again and again, in real time; yield the environment that has it.

    Its name is "spoken", and it is the system's choice.
    """
    import fcntl

    os.mkfifo(pipe := home / "microphone.pipe")
    (home / ".asoundrc").write_text(_DEVICES % pipe)
    into, ended = os.open(pipe, os.O_RDWR), threading.Event()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 1 << 20)  # 12 s, on a machine that does much else
    player = threading.Thread(target=_play, args=(into, samples, ended))
    player.start()
    try:
        yield {**os.environ, "HOME": str(home)}
    finally:
        ended.set()
        player.join()
        os.close(into)


def _play(into: int, samples: Floats, ended: threading.Event) -> None:
    data = np.rint(samples * 32767).astype("<i2")
    step, start, done = RATE // 20, time.monotonic(), 0
    os.set_blocking(into, False)
    while not ended.wait(max(0.0, start + done / RATE - time.monotonic())):
        block = np.take(data, np.arange(done, done + step), mode="wrap")
        with suppress(BlockingIOError):  # the pipe is full, for nobody listens yet: the sound is gone
            os.write(into, block.tobytes())
        done += step
