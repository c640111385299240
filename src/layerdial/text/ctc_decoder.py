"""The beam search that a request asks of a CTC model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from layerdial.errors import UserError
from layerdial.request import Request
from layerdial.text.ctc_beams import CtcSearch, LikelyTokens, Pieces, Scoring, likely_tokens
from layerdial.text.hotwords import Hotwords, hotwords_of, letters_of
from layerdial.text.language_model import read_language_model
from layerdial.text.phrases import Phrases, spellings, unspellable

BEAMS = 8  # where hotwords or a language model are given, and no number
PER_TOKEN = 1.5  # nats that a hotword of weight 1 gets, for each token of its shortest spelling
LM_WEIGHT, WORD_BONUS = 0.5, 1.0
_NAMED = 5  # hotwords in an error


@dataclass(frozen=True)
class CtcDecoder:
    """A beam search with what ranks its texts."""

    scoring: Scoring
    beams: int

    def begin(self) -> CtcSearch:
        return CtcSearch(self.scoring, self.beams)

    def labels(self, likely: LikelyTokens) -> list[int]:
        """Return the labels of the best text of an utterance."""
        search = self.begin()
        search.follow(likely)
        return search.finish()

    def labels_of(self, logp_TV: NDArray[np.float32]) -> list[int]:
        """Return the labels of the best text of log-probabilities (T, V)."""
        return self.labels(likely_tokens(logp_TV))


def ctc_decoder(request: Request, pieces: Pieces, model: str) -> CtcDecoder | None:
    """Return the search of a request to `model`, whose tokens are `pieces`; None where it is greedy.

    Raises `UserError` for hotwords that the tokens cannot spell, for a language model of another vocabulary, and within
    a deadline, of which the search would take a part that nobody set aside.
    """
    if not request.searches:
        return None
    asked = next((name for name in ("hotwords", "lm") if getattr(request, name) is not None), "beams")
    for name in ("deadline_ms", "target_rtf", "max_cpu"):
        if getattr(request, name) is not None:
            raise UserError(f"{asked} and {name} exclude each other for CTC models; give depth")
    phrases = None if request.hotwords is None else _phrases(hotwords_of(request.hotwords), pieces, model)
    lm = None if request.lm is None else read_language_model(request.lm)
    if lm is not None:
        lm.check_vocabulary(pieces.texts, pieces.letters, pieces.whole, model)
    weight = (LM_WEIGHT if request.lm_weight is None else request.lm_weight) if lm else 0.0
    bonus = (WORD_BONUS if lm else 0.0) if request.word_bonus is None else request.word_bonus
    return CtcDecoder(Scoring(pieces, phrases, lm, weight, bonus), request.beams or BEAMS)


@lru_cache(maxsize=4)
def _phrases(hotwords: Hotwords, pieces: Pieces, model: str) -> Phrases:
    if missing := unspellable(hotwords, pieces.letters):
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        named = ", ".join(map(repr, missing[:_NAMED]))
        raise UserError(f"the tokens of {model} cannot spell the hotwords {named}{more}; leave them out")
    # by tokens, not letters: where a token is a word, a bonus for each letter would write it where nobody says it
    counts = [count or 0 for count in spellings(hotwords, pieces.letters)]
    shares = [count / len(letters_of(phrase).strip()) for (phrase, _), count in zip(hotwords, counts, strict=True)]
    scaled = tuple((phrase, weight * share) for (phrase, weight), share in zip(hotwords, shares, strict=True))
    return Phrases(scaled, PER_TOKEN)
