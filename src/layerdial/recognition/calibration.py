"""The confidence of words, calibrated: of the words of confidence 0.8, eight of ten are right. `confidence.json`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from layerdial.errors import UserError
from layerdial.transcript import Chunk, Transcribed, Word
from layerdial.utils.records import parsing, read_record, write_record

FILE = "confidence.json"
FORMAT = 1
_REMEDY = "make it again with layerdial calibrate, or remove it"
_NEAREST = 1e-4  # to 0 and 1 that a confidence counts


def log_odds(confidence: float) -> float:
    """Return the logarithm of the odds of a confidence, which is finite also for 0 and 1."""
    p = min(max(confidence, _NEAREST), 1 - _NEAREST)
    return math.log(p / (1 - p))


@dataclass(frozen=True, slots=True)
class Curve:
    """The map of one depth: log-odds become `slope` times them, plus `offset`. The slope is not below 0: no word's
    confidence falls where that of the model rises.

    It was fitted to `words` of dev. The errors are the expected calibration error without it, and by maps that were
    fitted to other speakers of dev.
    """

    depth: int
    slope: float
    offset: float
    words: int
    error_before: float
    error_after: float

    def __post_init__(self) -> None:
        if not (0 <= self.slope < math.inf and math.isfinite(self.offset)):
            raise ValueError(f"slope {self.slope} and offset {self.offset} of depth {self.depth} are no rising map")

    def __call__(self, confidence: float) -> float:
        return 1 / (1 + math.exp(-min(max(self.slope * log_odds(confidence) + self.offset, -500.0), 500.0)))


@dataclass(frozen=True)
class Calibration:
    """The maps of a model, each for a depth; `cuts` are what they were fitted to."""

    model_id: str
    cuts: str
    curves: tuple[Curve, ...]

    def __post_init__(self) -> None:
        if not self.curves:
            raise ValueError("no depth was calibrated")

    def at(self, depth: int) -> Curve:
        """Return the map of the nearest depth that was calibrated; of two as near, the deeper's."""
        return min(self.curves, key=lambda curve: (abs(curve.depth - depth), -curve.depth))

    def applied(self, made: Transcribed) -> Transcribed:
        """Return a transcript whose words have calibrated confidence, each by the depth of its stretch of audio."""
        return replace(made, words=tuple(self._calibrated(made.words, made.chunks)))

    def _calibrated(self, words: Sequence[Word], chunks: Sequence[Chunk]) -> list[Word]:
        found, place = list[Word](), 0
        for word in words:
            while place + 1 < len(chunks) and word.start >= chunks[place].end:
                place += 1
            found.append(replace(word, confidence=self.at(chunks[place].depth)(word.confidence)))
        return found

    def save(self, folder: Path) -> Path:
        """Write `confidence.json` in one step."""
        stored = {"model_id": self.model_id, "cuts": self.cuts, "curves": [asdict(curve) for curve in self.curves]}
        write_record(folder / FILE, {"format": FORMAT, **stored})
        return folder / FILE

    @classmethod
    def beside(cls, folder: Path, model_id: str) -> Calibration | None:
        """Return the calibration in an exported folder, or None where there is none.

        Raises `UserError` if it is damaged, of another format, or of another model.
        """
        file = folder / FILE
        if not file.is_file():
            return None
        stored = read_record(file, _REMEDY, format=FORMAT)
        with parsing(file, _REMEDY):
            curves = tuple(map(_curve, stored["curves"]))
            calibration = cls(str(stored["model_id"]), str(stored["cuts"]), curves)
        if calibration.model_id != model_id:
            raise UserError(f"{file} is of the model {calibration.model_id}, this is {model_id}; {_REMEDY}")
        return calibration


def _curve(stored: dict[str, Any]) -> Curve:
    numbers = {name: float(stored[name]) for name in ("slope", "offset", "error_before", "error_after")}
    return Curve(depth=int(stored["depth"]), words=int(stored["words"]), **numbers)
