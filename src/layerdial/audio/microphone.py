"""Recording from the microphone, by the optional package sounddevice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from layerdial.errors import UserError, needing

MOST_SECONDS = 30.0
_ELSE = "or give a file with --audio"


def record(seconds: float, path: Path, say: Callable[[str], None]) -> None:
    """Write so many seconds from the default microphone to a WAV file, one channel, at the rate of the device.

    `say` is called when one may speak. Raises `UserError` where sounddevice, its system library or a microphone is
    missing, and for more than 30 seconds.
    """
    import soundfile

    if not 1.0 <= seconds <= MOST_SECONDS:
        raise UserError(f"--record is {seconds:g}; give 1 to {MOST_SECONDS:g} seconds")
    device = _sounddevice()
    try:
        rate = round(device.query_devices(kind="input")["default_samplerate"])
        say(f"speak now, for {seconds:g} s")
        samples = device.rec(round(seconds * rate), samplerate=rate, channels=1, dtype="float32", blocking=True)
    except (device.PortAudioError, ValueError) as error:
        raise UserError(f"there is no microphone that can be used ({error}); {_ELSE}") from None
    soundfile.write(path, samples, rate)


def _sounddevice() -> Any:
    try:
        with needing("record", "--record needs"):
            import sounddevice
    except OSError as error:  # the package is there, the library of the system is not
        raise UserError(f"--record needs PortAudio ({error}): apt install libportaudio2; {_ELSE}") from None
    return sounddevice
