"""Whether speech sounds like another language than it was recognised as.

A multilingual Whisper says it by itself: the token behind the start is the language. A checkpoint of English alone
cannot say it, but it is far less sure of what it writes.

Shapes: V vocabulary, L languages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layerdial.text.prompt import DecoderUse

UNKNOWN = "unknown"
"""Stands for the language where a checkpoint of English alone is not sure of what it writes."""
_LIKELY = 0.5  # of all languages
_UNSURE = math.log(0.5)  # mean over tokens; chosen on real English (docs/whisper.md)
_FEWEST = 8  # tokens that say how sure a checkpoint is


@dataclass(frozen=True)
class Languages:
    """The languages of a vocabulary: their tokens (L,) and codes."""

    tokens: tuple[int, ...]
    codes: tuple[str, ...]

    @classmethod
    def of(cls, tokens: Sequence[str]) -> Languages:
        """Return those that stand between the start of a transcript and the tasks, as in every Whisper."""
        try:
            places = range(tokens.index("<|startoftranscript|>") + 1, tokens.index("<|translate|>"))
        except ValueError:
            return NO_LANGUAGES
        return cls(tuple(places), tuple(tokens[i].strip("<|>") for i in places))

    def other(self, logits_V: NDArray[np.float32], use: DecoderUse) -> str | None:
        """Return the code of another language than the prompt's that is likelier than all others together, or "".

        `logits_V` are those behind the start. None for a prompt without language: that checkpoint knows English alone,
        and how sure it is of a text tells it, if all blocks of the decoder run.
        """
        prompt = use.prompt
        if len(prompt) < 2 or prompt[1] not in self.tokens:
            return None if use.subset.depth == use.subset.n_blocks else ""
        odds_L = np.exp(logits_V[list(self.tokens)] - logits_V[list(self.tokens)].max())
        best = int(odds_L.argmax())
        likely = odds_L[best] > _LIKELY * odds_L.sum()
        return self.codes[best] if likely and self.tokens[best] != prompt[1] else ""


NO_LANGUAGES = Languages((), ())


def unsure_of_english(mean_logp: float, n_tokens: int) -> bool:
    """Return whether a text of a checkpoint of English alone is so unsure that it may be another language."""
    return n_tokens >= _FEWEST and mean_logp < _UNSURE
