"""The weights of a beam search that were chosen on dev data for a model and a language model: `decoder.json`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from layerdial.errors import UserError
from layerdial.request import Request
from layerdial.utils.checksums import checksum, state_of
from layerdial.utils.records import parsing, read_record, write_record

FILE = "decoder.json"
FORMAT = 1
_REMEDY = "make it again with layerdial tune-decoder, or remove it"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights at one depth, the number of beams that they were chosen with, and the errors on dev."""

    depth: int
    lm_weight: float
    word_bonus: float
    beams: int
    errors: int
    words: int


@dataclass(frozen=True)
class TunedDecoder:
    """The weights of one language model, known by the SHA-256 of its file."""

    lm: str
    cuts: str
    weights: tuple[Weights, ...]

    def at(self, depth: int) -> Weights:
        """Return the weights of the nearest depth that was tuned; of two as near, the deeper's."""
        return min(self.weights, key=lambda one: (abs(one.depth - depth), -one.depth))


def read_tuned(folder: Path, model_id: str) -> dict[str, TunedDecoder]:
    """Return what was tuned, by the SHA-256 of language models; nothing where the weights of the model are others."""
    file = folder / FILE
    if not file.is_file():
        return {}
    stored = read_record(file, _REMEDY, format=FORMAT)
    with parsing(file, _REMEDY):
        tuned = {str(key): _tuned(value) for key, value in stored["tuned"].items()}
    if stored.get("model_id") != model_id:
        _say_once(f"{file} is of other weights of the model; layerdial tune-decoder chooses anew")
        return {}
    return tuned


def save_tuned(folder: Path, model_id: str, lm: Path, tuned: TunedDecoder) -> Path:
    """Write `decoder.json`; what was tuned for other language models of this model stays."""
    try:
        known = read_tuned(folder, model_id)
    except UserError:  # a damaged one can be replaced
        known = {}
    known[checksum(lm)] = tuned
    stored = {key: asdict(value) for key, value in known.items()}
    write_record(folder / FILE, {"format": FORMAT, "model_id": model_id, "tuned": stored})
    return folder / FILE


def with_tuned(request: Request, folder: Path | None, model_id: Callable[[], str], depth: int) -> Request:
    """Return a request with the weights tuned for its language model and a depth, unless it has weights itself.

    A language model that the weights were not tuned with is said in one line.
    """
    if request.lm is None or folder is None or not (folder / FILE).is_file() or not Path(request.lm).is_file():
        return request
    if request.lm_weight is not None or request.word_bonus is not None:
        return request
    known = _read(folder, model_id, state_of(folder / FILE))
    tuned = known.get(checksum(Path(request.lm)))
    if tuned is None:
        if known:
            names = ", ".join(sorted({one.lm for one in known.values()}))
            _say_once(f"{folder / FILE} was tuned with {names}, not with {request.lm}: the usual weights are used")
        return request
    chosen = tuned.at(depth)
    if chosen.depth != depth:
        _say_once(f"{folder / FILE} has no weights for depth {depth}; those of depth {chosen.depth} are used")
    beams = chosen.beams if request.beams is None else request.beams
    return replace(request, lm_weight=chosen.lm_weight, word_bonus=chosen.word_bonus, beams=beams)


_known: dict[Any, dict[str, TunedDecoder]] = {}


def _read(folder: Path, model_id: Callable[[], str], state: Any) -> Mapping[str, TunedDecoder]:
    if state not in _known:
        _known[state] = read_tuned(folder, model_id())
    return _known[state]


@cache
def _say_once(notice: str) -> None:
    _log.info(notice)


def _tuned(stored: Mapping[str, Any]) -> TunedDecoder:
    weights: Sequence[Any] = stored["weights"]
    if not weights:
        raise ValueError("no depth was tuned")
    return TunedDecoder(str(stored["lm"]), str(stored["cuts"]), tuple(map(_weights, weights)))


def _weights(stored: Mapping[str, Any]) -> Weights:
    whole = {name: int(stored[name]) for name in ("depth", "beams", "errors", "words")}
    made = Weights(lm_weight=float(stored["lm_weight"]), word_bonus=float(stored["word_bonus"]), **whole)
    Request(lm="", lm_weight=made.lm_weight, word_bonus=made.word_bonus, beams=made.beams)  # checks them
    return made
