"""The microphone, by the optional package sounddevice and the library PortAudio.

Shapes: S samples, C channels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import HIGHEST_RATE, LOWEST_RATE
from layerdial.audio.live import BLOCKS_PER_SECOND, Block
from layerdial.errors import UserError, needing

MOST_SECONDS = 30.0
_MOST_WAITING = 30 * BLOCKS_PER_SECOND  # blocks: half a minute
_PATIENCE = 5.0  # seconds without a block, or with digital silence alone, until that is said


def record(seconds: float, path: Path, say: Callable[[str], None]) -> None:
    """Write so many seconds from the default microphone to a WAV file, one channel, at the rate of the device.

    `say` is called when one may speak. Raises `UserError` where sounddevice, its system library or a microphone is
    missing, and for more than 30 seconds.
    """
    import soundfile

    if not 1.0 <= seconds <= MOST_SECONDS:
        raise UserError(f"--record is {seconds:g}; give 1 to {MOST_SECONDS:g} seconds")
    otherwise = "or give a file with --audio"
    device = _sounddevice("--record", otherwise)
    try:
        rate = round(device.query_devices(kind="input")["default_samplerate"])
        say(f"speak now, for {seconds:g} s")
        samples = device.rec(round(seconds * rate), samplerate=rate, channels=1, dtype="float32", blocking=True)
    except (device.PortAudioError, ValueError) as error:
        raise UserError(f"there is no microphone that can be used ({error}); {otherwise}") from None
    soundfile.write(path, samples, rate)


def list_microphones() -> list[str]:
    """Return a line for each microphone: its number, its name, and what the system calls it. Raises as `Microphone`."""
    library = _sounddevice("layerdial listen", _OTHERWISE)
    chosen = _found(library, None)["index"]
    systems = library.query_hostapis()
    return [
        f"{'*' if device['index'] == chosen else ' '} {device['index']:3}  {device['name']}  "
        f"({systems[device['hostapi']]['name']}, {device['default_samplerate']:.0f} Hz)"
        for device in _inputs(library)
    ]


class Microphone:
    """A microphone as sound: the number or a part of the name of a device, or else the system's own choice.

    It is open while its blocks are read. Up to half a minute waits to be read; the block behind it says what is lost.
    Raises `UserError` where sounddevice, PortAudio or the device is missing, or cannot be used.
    """

    def __init__(self, wanted: str | None = None) -> None:
        self._library = _sounddevice("layerdial listen", _OTHERWISE)
        device = _found(self._library, wanted)
        self.name, self.rate = str(device["name"]), round(device["default_samplerate"])
        if not LOWEST_RATE <= self.rate <= HIGHEST_RATE:
            raise UserError(f"the microphone {self.name} is at {self.rate} Hz; speech is at {LOWEST_RATE} Hz or more")
        self._settings = self._possible(device)
        self._waiting = SimpleQueue[Block | None]()
        self._stopped = False
        self._lost = 0  # samples
        self._silent: float | None = 0.0  # seconds of digital silence; None once that is no question any more

    def stop(self) -> None:
        self._stopped = True
        self._waiting.put(None)

    def blocks(self) -> Iterator[Block]:
        ends: dict[str, Any] = {"callback": self._take, "finished_callback": lambda: self._waiting.put(None)}
        try:
            with self._library.InputStream(**self._settings, blocksize=self.rate // BLOCKS_PER_SECOND, **ends):
                while (block := self._next()) is not None:
                    yield self._with_note(block)
        except self._library.PortAudioError as error:
            raise self._unusable(error) from None
        if self._lost:
            yield self._block(np.zeros((0, 1), np.float32))
        if not self._stopped:
            raise UserError(f"the microphone {self.name} gives no more sound; is it still plugged in?")

    def _possible(self, device: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of a stream: one channel, or all where the device does not give one."""
        settings = {"device": device["index"], "samplerate": self.rate, "dtype": "float32", "channels": 1}
        try:
            self._library.check_input_settings(**settings)
        except self._library.PortAudioError:
            settings["channels"] = int(device["max_input_channels"])
            try:
                self._library.check_input_settings(**settings)
            except self._library.PortAudioError as error:
                raise self._unusable(error) from None
        return settings

    def _unusable(self, error: Exception) -> UserError:
        found = f"the microphone {self.name} cannot be used ({error})"
        return UserError(f"{found}: has another program taken it? layerdial listen --list-microphones lists the others")

    def _take(self, samples_SC: NDArray[np.float32], frames: int, when: object, status: Any) -> None:
        """Take what PortAudio gives, in its own thread, which may not wait."""
        if self._waiting.qsize() >= _MOST_WAITING:
            self._lost += frames
        else:
            self._waiting.put(self._block(samples_SC, "the sound card has dropped some sound" * status.input_overflow))

    def _block(self, samples_SC: NDArray[np.float32], note: str = "") -> Block:
        lost, self._lost = self._lost / self.rate, 0
        return Block(samples_SC.mean(axis=1, dtype=np.float32), time.monotonic(), lost, note)

    def _next(self) -> Block | None:
        try:
            return self._waiting.get(timeout=_PATIENCE)
        except Empty:
            raise UserError(f"the microphone {self.name} has given no sound for {_PATIENCE:g} s") from None

    def _with_note(self, block: Block) -> Block:
        """Return a block that says so where nothing but digital silence has come for a while."""
        if self._silent is None or block.samples.any():
            self._silent = None
            return block
        self._silent += len(block.samples) / self.rate
        if self._silent < _PATIENCE:
            return block
        self._silent = None
        return replace(block, note=f"{self.name} gives silence alone; is it muted, or may this program not listen?")


_OTHERWISE = "or play a file with --from FILE"


def _inputs(library: Any) -> list[dict[str, Any]]:
    return [device for device in library.query_devices() if device["max_input_channels"] > 0]


def _found(library: Any, wanted: str | None) -> dict[str, Any]:
    """Return the device of a number or a part of a name, or the system's choice. Raises `UserError` for none."""
    number_or_name = int(wanted) if wanted is not None and wanted.isascii() and wanted.isdigit() else wanted
    try:
        found: dict[str, Any] = library.query_devices(number_or_name, "input")
        return found
    except (library.PortAudioError, ValueError) as error:
        inputs = _inputs(library)
        if not inputs:
            raise UserError(f"there is no microphone on this machine; plug one in, {_OTHERWISE}") from None
        there = "; ".join(f"{device['index']} {device['name']}" for device in inputs)
        if wanted is None:
            raise UserError(
                f"the system names no microphone ({error}); give --microphone with one of: {there}"
            ) from None
        several = "there are several microphones" if "Multiple" in str(error) else "there is no microphone"
        raise UserError(f"{several} {wanted!r}; give the number of one of: {there}") from None


def _sounddevice(what: str, otherwise: str) -> Any:
    """Return the package sounddevice. Raises `UserError` where it, or PortAudio, is missing: `what` needs it."""
    try:
        with needing("record", f"{what} needs"):
            import sounddevice
    except OSError as error:  # the package is there, the library of the system is not
        raise UserError(f"{what} needs PortAudio ({error}): apt install libportaudio2; {otherwise}") from None
    return sounddevice
