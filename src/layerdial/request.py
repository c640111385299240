"""A request to a recogniser, checked, with the help texts of both command lines. Imports nothing heavy: --help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from layerdial.errors import UserError
from layerdial.subset import BlockSubset


def _option(text: str) -> Any:
    """Return a dataclass field with default None and its help text."""
    return field(default=None, metadata={"help": text})


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a recogniser: blocks, or a constraint that the deepest possible blocks must meet.

    At most one of the first five; with none all blocks run. `subset` is used as it is, `depth` is the ladder's. If no
    depth meets a constraint, the shallowest runs, and the transcript's `reason` gives that. With `confidence`,
    `first_depth` runs first. The other blocks follow only where the mean posterior of the frames whose best token is
    not the blank is below it. `language`, `task` and `decoder_depth` are for encoder-decoder models, `lm` and
    `word_bonus` for CTC models. `hotwords` are a list of phrases, or a mapping to weights. Raises `UserError` for
    fields that exclude each other or are invalid.
    """

    depth: int | None = _option("how many blocks run; all if left out")
    subset: BlockSubset | None = None
    deadline_ms: float | None = _option("the deepest that is done in so many milliseconds, file by file")
    target_rtf: float | None = _option("the deepest that takes at most so many seconds a second of audio")
    max_cpu: float | None = _option("the deepest that computes so many seconds a second of audio")
    confidence: float | None = _option(
        "shallow first, deeper only where the posteriors are less sure than this, 0 to 1"
    )
    first_depth: int | None = _option("with --confidence: the depth to begin with; the shallowest if left out")
    language: str | None = _option("what is spoken, such as de; the checkpoint's own, or English, if left out")
    task: str | None = _option("transcribe, or translate into English; the checkpoint's own if left out")
    beams: int | None = _option(
        "how many transcripts are followed at a time; 1, greedy, if left out (CTC with hotwords or lm: 8)"
    )
    decoder_depth: int | None = _option("how many of the decoder's blocks run, evenly spaced; all if left out")
    timestamps: bool | None = _option("write where each segment of the text begins and ends")
    words: bool | None = _option("write when each word is spoken; JSON has its confidence too")
    hotwords: Mapping[str, float] | Sequence[str] | None = _option(
        "a file of names and phrases to be preferred, one a line, with a weight behind it: Eyre :2"
    )
    lm: str | None = _option("CTC models: an n-gram language model of words, ARPA or a KenLM binary")
    lm_weight: float | None = _option(
        "with lm: the factor of its log-probabilities; if left out 0.5, or tuned if word_bonus is left out too"
    )
    word_bonus: float | None = _option(
        "CTC models, with beams: added for each word; 0 if left out, with lm 1, or tuned if lm_weight is left out too"
    )
    vad: bool | None = _option("find speech first (voice activity detection), and recognise nothing else")

    def __post_init__(self) -> None:
        exclusive = {name: getattr(self, name) for name in ("depth", "subset", *_LIMITS)}
        given = [name for name, value in exclusive.items() if value is not None]
        if len(given) > 1:
            raise UserError(f"give one of {', '.join(given)}, not {len(given)}")
        for name in set(given) & set(_LIMITS):
            if not exclusive[name] > 0:  # also true for NaN
                raise UserError(f"{name} is {exclusive[name]}; give a number above 0")
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise UserError(f"confidence is {self.confidence}; give a number from 0 to 1")
        if self.first_depth is not None and self.confidence is None:
            raise UserError("first_depth is what runs before another depth; give confidence too")
        if self.beams is not None and self.beams < 1:
            raise UserError(f"beams is {self.beams}; give 1 or more")
        self._check_weights()
        if self.task not in (None, "transcribe", "translate"):
            raise UserError(f"task is {self.task!r}; choose transcribe or translate")
        for name in self.constraints if self.timestamps else ():
            raise UserError(f"timestamps and {name} exclude each other; give depth")

    def _check_weights(self) -> None:
        if self.lm_weight is not None and not 0 <= self.lm_weight < float("inf"):
            raise UserError(f"lm_weight is {self.lm_weight}; give a number of 0 or more")
        if self.lm_weight is not None and self.lm is None:
            raise UserError("lm_weight is of a language model; give lm too")
        if self.word_bonus is not None and not abs(self.word_bonus) < float("inf"):
            raise UserError(f"word_bonus is {self.word_bonus}; give a number")
        if self.word_bonus is not None and self.lm is None and self.hotwords is None and (self.beams or 1) == 1:
            raise UserError("word_bonus is of a beam search; give beams, hotwords or lm too")

    @property
    def constraints(self) -> tuple[str, ...]:
        """The fields given that leave the depth to the recogniser."""
        return tuple(name for name in (*_LIMITS, "confidence") if getattr(self, name) is not None)

    @property
    def searches(self) -> bool:
        """Whether a CTC model needs a beam search for it."""
        return self.hotwords is not None or self.lm is not None or (self.beams or 1) > 1

    def refuse_decoder_options(self, model: str) -> None:
        """Raise `UserError` for what only encoder-decoder models can do, where `model` is none."""
        for name in (name for name in _OF_DECODERS if getattr(self, name) not in (None, False)):
            raise UserError(f"{name} is for encoder-decoder models such as Whisper; {model} is a CTC model")

    def refuse_ctc_options(self, model: str) -> None:
        """Raise `UserError` for what only CTC models can do, where `model` writes token by token."""
        for name in (name for name in ("lm", "word_bonus") if getattr(self, name) is not None):
            raise UserError(f"{name} is for CTC models; {model} has a decoder, which is a language model itself")

    @classmethod
    def help(cls, name: str) -> str:
        """Return the help text of a field, for command lines."""
        return str(cls.__dataclass_fields__[name].metadata["help"])


_OF_DECODERS = ("language", "task", "decoder_depth")
_LIMITS = ("deadline_ms", "target_rtf", "max_cpu")
