"""Speech of espeak-ng whose words have known times: those of its phonemes, as the library reports them.

C interface: espeak-ng 1.52, `espeak_EVENT` in `src/include/espeak-ng/speak_lib.h`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from layerdial.data.synthesis.espeak import NATIVE_RATE, Floats, speak_with_events

_PHONEME, _END_OF_LIST = 7, 0


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


@dataclass(frozen=True)
class SpokenWords:
    """Words, in most cases one, spoken from `start` to `end` in seconds. The library joins some, such as "of the"."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class _Phoneme:
    position: int  # of its word in the text, counted from 1
    sample: int
    name: bytes


def speak_timed(text: str, voice: str = "en", speed: int = 175, pitch: int = 50) -> tuple[Floats, list[SpokenWords]]:
    """Return what `speak` returns at 22050 Hz, and the times of the words; raises as `speak` does.

    A word ends where the next one or a pause begins.
    """
    phonemes = list[_Phoneme]()

    def take(address: int | None) -> None:
        place = address
        while place and (event := _Event.from_address(place)).type != _END_OF_LIST:
            if event.type == _PHONEME:
                phonemes.append(_Phoneme(event.text_position, event.sample, bytes(event.id.string)))
            place += ctypes.sizeof(_Event)

    samples = speak_with_events(text, take, voice, speed, pitch)
    return samples, _words(text, phonemes, len(samples))


def _words(text: str, phonemes: Sequence[_Phoneme], n_samples: int) -> list[SpokenWords]:
    ends = [after.sample for _, after in pairwise(phonemes)] + [n_samples]
    spoken = [(phoneme, end) for phoneme, end in zip(phonemes, ends, strict=True) if not phoneme.name.startswith(b"_")]
    groups, position = list[tuple[str, list[tuple[_Phoneme, int]]]](), 1
    for word in text.split():
        position = text.index(word, position - 1) + 1
        own = [pair for pair in spoken if position <= pair[0].position < position + len(word)]
        if own or not groups:
            groups.append((word, own))
        else:
            groups[-1] = f"{groups[-1][0]} {word}", groups[-1][1]
        position += len(word)
    return [
        SpokenWords(words, own[0][0].sample / NATIVE_RATE, own[-1][1] / NATIVE_RATE) for words, own in groups if own
    ]
