"""What a cut may say: numbers in ranges that audio has, and of the types that lhotse writes.

lhotse takes a record as it is. A negative start, a duration of a thousand years or a text that is a number would come
out as a traceback in a data worker, or as all the memory of a machine.
"""

from __future__ import annotations

import math
from typing import Any

from lhotse import MonoCut
from lhotse.cut import Cut, MixedCut, PaddingCut
from lhotse.cut.data import DataCut

from layerdial.audio.files import HIGHEST_RATE, LOWEST_RATE

_LONGEST = 7 * 24 * 3600.0  # seconds of a recording
_LONGEST_MIX = 4 * 3600.0  # seconds of cuts laid side by side, which are held in memory
_MOST_SAMPLES = int(_LONGEST * HIGHEST_RATE)


def problem_of(cut: Cut) -> str | None:
    """Return what is wrong with the values of a cut, None if nothing."""
    try:
        if not (isinstance(cut.id, str) and cut.id):
            return f"its id is {_shown(cut.id)}, not a text"
        found = _problem_of_mix(cut) if isinstance(cut, MixedCut) else _problem_of_single(cut)
        return found or _problem_of_supervisions(cut)
    except Exception as error:  # lhotse computes some values when they are asked for
        return f"its values make no sense ({type(error).__name__})"


def _problem_of_mix(cut: MixedCut) -> str | None:
    if not isinstance(cut.tracks, list) or not cut.tracks:
        return "it has no tracks"
    for track in cut.tracks:
        found = _range("the offset of a track", track.offset, 0.0, _LONGEST_MIX) or problem_of(track.cut)
        if found:
            return found
    return _range("its duration", cut.duration, 0.0, _LONGEST_MIX)


def _problem_of_single(cut: Cut) -> str | None:
    rates = _range("its rate", cut.sampling_rate, LOWEST_RATE, HIGHEST_RATE)
    if isinstance(cut, PaddingCut):
        return rates or _range("its duration", cut.duration, 0.0, _LONGEST_MIX)
    if not isinstance(cut, DataCut) or not cut.has_recording:
        return "it has no recording"
    recording = cut.recording
    if not isinstance(recording.sources, list) or not recording.sources:
        return "its recording has no sources"
    if any(not isinstance(source.source, str | bytes) for source in recording.sources):
        return "the source of its recording is not a path"
    if isinstance(cut, MonoCut) and not isinstance(cut.channel, int):
        return f"its channel is {_shown(cut.channel)}"
    return (
        rates
        or _range("its start", cut.start, 0.0, _LONGEST)
        or _range("its duration", cut.duration, 1e-6, _LONGEST)
        or _whole("the number of samples of its recording", recording.num_samples, _MOST_SAMPLES)
        or _whole("the rate of its recording", recording.sampling_rate, HIGHEST_RATE)
        or _range("the duration of its recording", recording.duration, 0.0, _LONGEST)
    )


def _problem_of_supervisions(cut: Cut) -> str | None:
    for segment in cut.supervisions:
        found = _range("the start of a supervision", segment.start, -_LONGEST, _LONGEST)
        if found or not isinstance(segment.text, str | None):
            return found or f"the text of a supervision is {_shown(segment.text)}, not a text"
    return None


def _range(name: str, value: Any, least: float, most: float) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return f"{name} is {_shown(value)}, not a number"
    return None if least <= value <= most else f"{name} is {_shown(value)}, not within {least:g} and {most:g}"


def _whole(name: str, value: Any, most: int) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return f"{name} is {_shown(value)}, not a whole number"
    return None if 0 < value <= most else f"{name} is {_shown(value)}, not within 1 and {most}"


def _shown(value: Any) -> str:
    """Return a value, as far as it fits in a line; a number of thousands of digits cannot even be written."""
    try:
        text = repr(value)
    except ValueError:
        return f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= 40 else text[:37] + "..."
