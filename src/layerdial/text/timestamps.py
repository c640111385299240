"""Whisper's timestamp tokens: which may follow a text so far, and the segments that a text with them has.

Tokens of 0.00, 0.02, ... 30.00 seconds stand before and after each segment: `<|0.00|> text <|1.50|><|1.50|> text ...`.
The rules are those of openai-whisper (`ApplyTimestampRules`), and one more: none lies behind the end of the audio.

Shapes: V vocabulary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

_NAME = re.compile(r"<\|\d+\.\d\d\|>")
_STEP = 0.02  # seconds from one token to the next
_LATEST_START = 50  # the first is at most one second


@dataclass(frozen=True)
class TimedTokens:
    """Tokens of text that are spoken from `start` to `end`, in seconds. `end` is None where the text breaks off.

    `first` is the place of the first of them in the whole text."""

    start: float
    end: float | None
    tokens: list[int]
    first: int = 0


@dataclass(frozen=True)
class Stamps:
    """The timestamp tokens of a vocabulary, from `first`, which is 0.00, to `last`."""

    first: int
    last: int

    @classmethod
    def of(cls, tokens: Sequence[str]) -> Stamps | None:
        """Return those of a vocabulary; None where it has none."""
        if "<|0.00|>" not in tokens:
            return None
        first = last = tokens.index("<|0.00|>")
        while last + 1 < len(tokens) and _NAME.fullmatch(tokens[last + 1]):
            last += 1
        return cls(first, last)

    def within(self, seconds: float) -> Stamps:
        """Return those that lie within so many seconds of audio; the last may be less than 20 ms behind its end."""
        return replace(self, last=min(self.last, self.first + math.ceil(round(seconds / _STEP, 6))))

    def restrict(self, logits_V: NDArray[np.float32], text: Sequence[int], end: int) -> None:
        """Set the logits of tokens that may not follow `text` to minus infinity; `end` is the first that is no text."""
        logits_V[self.last + 1 :] = -np.inf
        if not text:
            logits_V[: self.first] = -np.inf
            logits_V[self.first + _LATEST_START + 1 :] = -np.inf
            return
        closes = text[-1] >= self.first and not (len(text) < 2 or text[-2] >= self.first)
        if closes:  # what it closed is followed by a stamp that opens, or by the end
            logits_V[:end] = -np.inf
        elif text[-1] >= self.first:  # a text follows what opens
            logits_V[self.first :] = -np.inf
        logits_V[self.first : self._earliest(text, closes)] = -np.inf
        if log_sum(logits_V[self.first :]) > logits_V[: self.first].max():
            logits_V[: self.first] = -np.inf

    def _earliest(self, text: Sequence[int], closes: bool) -> int:
        """Return the first stamp that may follow: the last one, or a later one where a segment would have no length."""
        latest = next((token for token in reversed(text) if token >= self.first), None)
        if latest is None:
            return self.first
        return latest if closes else latest + 1

    def segments(self, text: Sequence[int]) -> list[TimedTokens]:
        """Return the segments of a text; stamps without text between them make none."""
        found, start, tokens = list[TimedTokens](), 0.0, list[int]()
        for i, token in enumerate(text):
            if token < self.first:
                tokens.append(token)
                continue
            time = _STEP * (token - self.first)
            if tokens:
                found.append(TimedTokens(start, time, tokens, i - len(tokens)))
            start, tokens = time, []
        if tokens:
            found.append(TimedTokens(start, None, tokens, len(text) - len(tokens)))
        return found


def log_sum(logits: NDArray[np.float32]) -> float:
    """Return the logarithm of the sum of the exponentials; minus infinity where all are."""
    largest = logits.max(initial=-np.inf)
    return float(largest + np.log(np.exp(logits - largest).sum())) if np.isfinite(largest) else -math.inf
