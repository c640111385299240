"""One utterance: text to speech by the espeak-ng library in the `espeakng-loader` wheel, a room, and background noise.

Licence: espeak-ng is GPL-3.0-or-later and layerdial is Apache-2.0. The wheel is therefore an optional extra
(`pip install '.[demo]'`), nothing of it is copied here, and only this folder imports this module.

A voice is named `ACCENT+VARIANT`, as on espeak-ng's command line: `en-us+f2` is American English by the variant `f2`,
`en` alone British English by the default speaker.

The library keeps hidden state (noise generators, vibrato phase, echo buffer) that its own `Terminate` does not reset,
so the same sentence spoken twice differs in a few samples. `speak` therefore loads the library for every utterance and
unloads it afterwards (0.5 ms, and 5 ms to read its voice data). The output then depends on the arguments alone, not on
earlier calls or on the process.

C interface: espeak-ng 1.52, `src/include/espeak-ng/speak_lib.h`.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.noise import coloured_noise
from layerdial.data.synthesis.reverb import DIRECT_DB, reverberate, room_response
from layerdial.errors import UserError, installing
from layerdial.utils.temporary import temporary_folder

Floats = npt.NDArray[np.float32]

NATIVE_RATE = 22050  # of what `speak` returns
SNR_DB = (10.0, 30.0)
PEAK_DB = (-20.0, -1.0)  # of full scale: loudness varies and nothing clips
PADDING = (0.05, 0.25)  # seconds of background before and after the speech

_SPEEDS = (80, 450)  # words per minute that the library accepts
_PITCHES = (0, 100)

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_PHONEME_EVENTS = 0x0001
_INITIALIZE_DONT_EXIT = 0x8000  # report a missing data folder instead of ending the process
_CHARS_UTF8 = 1
_LONGEST_PATH = 120
_RATE, _PITCH, _RANGE = 1, 3, 4
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_ONE_AT_A_TIME = threading.Lock()
_until_exit = ExitStack()
atexit.register(_until_exit.close)


@dataclass(frozen=True)
class Utterance:
    """A text and the manner of speaking.

    voice: `ACCENT+VARIANT`; speed: words a minute; pitch: 0 to 100, 50 is the voice's own.
    """

    text: str
    voice: str = "en"
    speed: int = 175
    pitch: int = 50


def synthesise(
    utterance: Utterance,
    snr_db: tuple[float, float] | None = SNR_DB,
    seed: int | Sequence[int] = 0,
    reverb: tuple[float, float] | None = None,
) -> Floats:
    """Return the utterance as samples (S,) at 16 kHz, |x| < 1: a pure function of its arguments.

    snr_db: background noise, close to pink, at a level drawn evenly from this range, and a loudness drawn from
    `PEAK_DB`; None gives the voice alone. reverb: a room whose RT60, in seconds, is drawn evenly from this range; None
    for none. The noise is that of the microphone: it is added after the room, and its level is relative to the sound
    there. Raises UserError as `speak` does, and for a text that gives no sound.
    """
    import soxr

    raw = speak(utterance.text, utterance.voice, utterance.speed, utterance.pitch)
    if not raw.any():
        raise UserError(f"the text {utterance.text!r} gives no sound; it needs letters or digits")
    speech: Floats = soxr.resample(raw, NATIVE_RATE, SAMPLE_RATE)
    rng = np.random.default_rng(seed)
    if reverb is not None:
        speech = reverberate(speech, room_response(rng.uniform(*reverb), rng.uniform(*DIRECT_DB), SAMPLE_RATE, rng))
    if snr_db is None:
        return _to_peak(speech, PEAK_DB[1])
    samples = add_background(speech, rng.uniform(*snr_db), rng)
    return _to_peak(samples, rng.uniform(*PEAK_DB))


def add_background(speech: Floats, snr_db: float, rng: np.random.Generator) -> Floats:
    """Return speech (S,) at 16 kHz with silence around it, in noise whose power is `snr_db` below the speech's mean."""
    before, after = (int(seconds * SAMPLE_RATE) for seconds in rng.uniform(*PADDING, size=2))
    padded = np.pad(speech, (before, after))
    noise = coloured_noise(len(padded), rng.uniform(0.5, 1.2), rng)
    power = float(np.mean(np.square(speech, dtype=np.float64)))
    noisy: Floats = padded + noise * np.float32(np.sqrt(power * 10 ** (-snr_db / 10)))
    return noisy


def _to_peak(samples: Floats, peak_db: float) -> Floats:
    scaled: Floats = samples * np.float32(10 ** (peak_db / 20) / np.abs(samples).max())
    return scaled


def speak(text: str, voice: str = "en", speed: int = 175, pitch: int = 50, pitch_range: int = 50) -> Floats:
    """Return `text` spoken by `voice`, as samples (S,) in [-1, 1) at 22050 Hz: a pure function of its arguments.

    speed: words per minute, 80 to 450; pitch: 0 to 100, 50 is the voice's own; pitch_range: 0 is monotone, 50 natural.
    Raises UserError where the wheel is missing, the voice unknown or a number outside its range.
    """
    return speak_with_events(text, lambda address: None, voice, speed, pitch, pitch_range)


def speak_with_events(
    text: str,
    take: Callable[[int | None], object],
    voice: str = "en",
    speed: int = 175,
    pitch: int = 50,
    pitch_range: int = 50,
) -> Floats:
    """Return what `speak` does, and call `take` with the address of the library's events of each stretch of sound."""
    check_voice(voice)
    _check_range("speed", speed, _SPEEDS)
    _check_range("pitch", pitch, _PITCHES)
    _check_range("pitch range", pitch_range, _PITCHES)
    parts: list[npt.NDArray[np.int16]] = []

    def collect(wave: Any, count: int, events: int | None) -> int:
        if wave and count > 0:  # the buffer is the library's own and is used again
            parts.append(np.ctypeslib.as_array(wave, (count,)).copy())
        take(events)
        return 0

    with _ONE_AT_A_TIME:
        _say(_CALLBACK(collect), text, voice, {_RATE: speed, _PITCH: pitch, _RANGE: pitch_range})
    if not parts:
        return np.zeros(0, np.float32)
    return np.concatenate(parts).astype(np.float32) / np.float32(32768)


def _say(callback: Any, text: str, voice: str, parameters: dict[int, int]) -> None:
    """Load the library, speak into `callback`, unload."""
    path, data = _paths()
    library = ctypes.CDLL(path)
    try:
        flags = _INITIALIZE_DONT_EXIT | _INITIALIZE_PHONEME_EVENTS
        if library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(data), flags) != NATIVE_RATE:
            raise UserError(f"{data}: espeak-ng cannot read its voice data; reinstall espeakng-loader")
        try:
            _seed_noise(library)
            library.espeak_SetSynthCallback(callback)
            if library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise UserError(f"espeak-ng cannot load voice {voice!r}")
            for number, value in parameters.items():
                library.espeak_SetParameter(number, value, 0)
            raw = text.encode() + b"\0"
            failed = library.espeak_Synth(raw, ctypes.c_size_t(len(raw)), 0, 1, 0, _CHARS_UTF8, None, None)
            if failed or library.espeak_Synchronize():
                raise RuntimeError(f"espeak-ng could not speak {text!r} with {voice}")
        finally:
            library.espeak_Terminate()
    finally:
        _unload(library)


def _seed_noise(library: ctypes.CDLL) -> None:
    """Seed both generators of breath noise: one is seeded with the time of day, some variants use C's `rand`."""
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    c_runtime = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)
    c_runtime.srand(ctypes.c_uint(1))


def _unload(library: ctypes.CDLL) -> None:
    import _ctypes

    if sys.platform == "win32":
        _ctypes.FreeLibrary(library._handle)
    else:
        _ctypes.dlclose(library._handle)


@functools.cache
def _paths() -> tuple[str, str]:
    """Return the paths of the library and of its data folder."""
    try:
        import espeakng_loader
    except ImportError:
        raise UserError(f"espeakng-loader is not installed; run: {installing('demo')}") from None
    return espeakng_loader.get_library_path(), _short(espeakng_loader.get_data_path())


def _short(folder: str) -> str:
    """Return a short name for `folder`: the library keeps its path in a buffer of 160 bytes and cuts off the rest."""
    if len(os.fsencode(folder)) <= _LONGEST_PATH:
        return folder
    place = _until_exit.enter_context(temporary_folder(name="espeak"))
    link = os.path.join(place, "data")
    os.symlink(folder, link, target_is_directory=True)
    return link


@functools.cache
def variants() -> tuple[str, ...]:
    """Return the names of the speaker variants in the wheel, about a hundred."""
    return tuple(sorted(path.name for path in Path(_paths()[1], "voices", "!v").iterdir()))


@functools.cache
def accents() -> tuple[str, ...]:
    """Return the English accents in the wheel, in lower case: `en`, `en-us`, `en-gb-scotland` …"""
    folder = Path(_paths()[1], "lang", "gmw")
    names = (path.name.lower() for path in folder.iterdir())
    return tuple(sorted(name for name in names if name.split("-")[0] == "en" and name != "en-shaw"))


def check_voice(voice: str) -> None:
    """Raise UserError unless both halves of `voice` exist. (The library speaks an unknown variant as the default.)"""
    accent, plus, variant = voice.partition("+")
    if accent not in accents():
        raise UserError(f"unknown voice {voice!r}: the accents are {', '.join(accents())}")
    if plus and variant not in variants():
        some = ", ".join(f"{accent}+{name}" for name in ("f2", "m3", "klatt2", "adam"))
        raise UserError(f"unknown voice {voice!r}: no variant {variant!r}; there are {len(variants())}, such as {some}")


def _check_range(what: str, value: int, allowed: tuple[int, int]) -> None:
    low, high = allowed
    if not low <= value <= high:
        raise UserError(f"{what} is {value}; espeak-ng takes {low} to {high}")
