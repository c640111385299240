"""Simulated reverberation: a random room response, which needs no data and has a known RT60."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

DIRECT_DB = (-3.0, 6.0)  # the direct sound against all that comes after: across a room to close by
TAIL_DB = 30.0  # how far the tail falls before it is cut off: the background noise masks the rest


def room_response(rt60: float, direct_db: float, rate: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return the impulse response (T,) of a room, of energy 1: the direct sound, then a tail of rt60 / 2 seconds.

    The direct sound is at sample 0. rt60: seconds in which the tail would fall by 60 dB; it is cut off at `TAIL_DB`.
    direct_db: energy of the direct sound relative to the tail. rate: Hz. The tail is white Gaussian noise under exp(-3
    ln(10) t / rt60), the same at all frequencies (Polack, "La transmission de l'énergie sonore dans les salles",
    thesis, Le Mans 1988). The direct sound is separate from it (Habets, Gannot and Cohen, "Late reverberant spectral
    variance estimation based on a statistical model", IEEE Signal Processing Letters 16, 2009). So there are no single
    early reflections.
    """
    seconds = np.arange(1, round(rt60 * rate * TAIL_DB / 60)) / rate
    tail = rng.standard_normal(len(seconds)) * np.exp(-3 * np.log(10) * seconds / rt60)
    tail *= np.sqrt(10 ** (-direct_db / 10) / np.sum(np.square(tail)))
    response: npt.NDArray[np.float64] = np.concatenate(([1.0], tail))
    response /= np.sqrt(np.sum(np.square(response)))
    return response


def reverberate(speech: Floats, response: npt.NDArray[np.float64]) -> Floats:
    """Return speech (S,) through a room's response (T,): (S + T - 1,), with the energy that it had."""
    length = len(speech) + len(response) - 1
    size = 1 << (length - 1).bit_length()  # powers of two are fast to transform
    dry = speech.astype(np.float64)
    wet = np.fft.irfft(np.fft.rfft(dry, size) * np.fft.rfft(response, size), size)[:length]
    wet *= np.sqrt(np.sum(np.square(dry)) / np.sum(np.square(wet)))
    return wet.astype(np.float32)
