"""CTC prefix beam search (Graves 2012, Hannun et al. 2014), with hotwords and an n-gram language model of words.

A prefix is a text without blanks and repeats. Its probability is the sum over all alignments that the beams followed.
The score that ranks prefixes adds the bonus of hotwords, and for each whole word the weighted log-probability of the
language model and a bonus.

Shapes: T frames, V vocabulary.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from layerdial.text.ctc import BLANK
from layerdial.text.hotwords import letters_of
from layerdial.text.phrases import Phrases
from layerdial.text.tokenizer import SPACE

LEAST = 1e-4  # tokens less likely than this in a frame are left out, unless they are the likeliest
_SMALLEST = 1e-300


class WordModel(Protocol):
    """A language model of words. States are its own."""

    def start(self) -> Any: ...

    def word(self, state: Any, word: str) -> tuple[Any, float]:
        """Return the state behind a word, and its log-probability in nats."""
        ...

    def end(self, state: Any) -> float:
        """Return the log-probability of the end of the text."""
        ...


class Pieces:
    """The text of each token, with a space where a word begins. `whole`: every token is a word."""

    def __init__(self, tokens: Sequence[str], silent: Iterable[int] = ()) -> None:
        none = {BLANK, *silent}
        self.texts = ["" if i in none else token.replace(SPACE, " ") for i, token in enumerate(tokens)]
        self.letters = [letters_of(text) for text in self.texts]
        written = [text for text in self.texts if text]
        self.whole = bool(written) and all(text[0] == " " and len(text) > 1 for text in written)

    def decode(self, labels: Iterable[int]) -> str:
        return " ".join("".join(self.texts[label] for label in labels).split())


@dataclass(frozen=True)
class LikelyTokens:
    """The tokens that a search looks at, frame after frame: those of frame i end at `ends[i]`."""

    ends: list[int]
    tokens: list[int]
    values: list[float]


def likely_tokens(logp_TV: NDArray[np.float32], least: float = LEAST) -> LikelyTokens:
    """Return the tokens of log-probabilities (T, V) that are likelier than `least`, and the likeliest of each frame."""
    likely_TV = logp_TV > (math.log(least) if least else -math.inf)
    likely_TV[np.arange(len(logp_TV)), logp_TV.argmax(axis=1)] = True
    frames, places = np.nonzero(likely_TV)
    values = np.exp(logp_TV[frames, places].astype(np.float64))
    ends = np.cumsum(np.bincount(frames, minlength=len(logp_TV)))
    return LikelyTokens(ends.tolist(), places.tolist(), values.tolist())


@dataclass(frozen=True)
class Scoring:
    """What ranks texts besides their acoustic probability. Weights are in nats, the language model's a factor."""

    pieces: Pieces
    phrases: Phrases | None = None
    lm: WordModel | None = None
    lm_weight: float = 0.0
    word_bonus: float = 0.0

    def first(self) -> _Prefix:
        return _Prefix(None, BLANK, self.phrases.start if self.phrases else 0, self.lm.start() if self.lm else None)

    def extended(self, prefix: _Prefix, token: int) -> _Prefix:
        """Return a prefix with one token more, scored."""
        made = _Prefix(prefix, token, prefix.state, prefix.lm_state, prefix.word, prefix.bonus)
        if self.phrases is not None:
            made.state, change = self.phrases.step(prefix.state, self.pieces.letters[token])
            made.bonus += change
        if self.lm is not None or self.word_bonus:
            *words, made.word = (prefix.word + self.pieces.texts[token]).split(" ")
            if self.pieces.whole:
                words, made.word = [*words, made.word], ""
            for word in filter(None, words):
                self._add_word(made, word)
        return made

    def _add_word(self, prefix: _Prefix, word: str) -> None:
        prefix.bonus += self.word_bonus
        if self.lm is not None:
            prefix.lm_state, logp = self.lm.word(prefix.lm_state, word)
            prefix.bonus += self.lm_weight * logp

    def ended(self, prefix: _Prefix) -> float:
        """Return the bonus of a prefix that is the whole text."""
        last = _Prefix(prefix, BLANK, prefix.state, prefix.lm_state, bonus=prefix.bonus)
        if prefix.word:
            self._add_word(last, prefix.word)
        if self.phrases is not None:
            last.bonus += self.phrases.end(prefix.state)
        if self.lm is not None:
            last.bonus += self.lm_weight * self.lm.end(last.lm_state)
        return last.bonus


@dataclass(slots=True, eq=False)
class _Prefix:
    """A text: the one before it and its last token. `state` is that of the phrases, `word` what is not yet whole."""

    before: _Prefix | None
    token: int
    state: int
    lm_state: Any = None
    word: str = ""
    bonus: float = 0.0
    longer: dict[int, _Prefix] = field(default_factory=dict)

    def tokens(self) -> list[int]:
        found, prefix = list[int](), self
        while prefix.before is not None:
            found.append(prefix.token)
            prefix = prefix.before
        return found[::-1]


class CtcSearch:
    """A search that is given frames as they come, so that the windows of long audio have no seams.

    With `least` 0 no token is left out.
    """

    def __init__(self, scoring: Scoring, beams: int, least: float = LEAST) -> None:
        self._scoring, self._n_beams, self._least = scoring, beams, least
        # of each prefix: its probability with a blank at the end, and without, over that of the likeliest
        self._beams: list[tuple[_Prefix, float, float]] = [(scoring.first(), 1.0, 0.0)]

    def feed(self, logp_TV: NDArray[np.float32]) -> None:
        """Follow the beams through more frames of log-probabilities (T, V)."""
        self.follow(likely_tokens(logp_TV, self._least))

    def follow(self, likely: LikelyTokens) -> None:
        """Follow the beams through more frames."""
        start = 0
        for end in likely.ends:
            self._follow(likely.tokens[start:end], likely.values[start:end])
            start = end
        self._forget()

    def finish(self) -> list[int]:
        """Return the labels of the best text."""
        best, _, _ = max(self._beams, key=lambda beam: math.log(beam[1] + beam[2]) + self._scoring.ended(beam[0]))
        return best.tokens()

    def settled(self) -> list[int]:
        """Return the labels with which all beams begin: nothing that follows can change them."""
        paths = [prefix.tokens() for prefix, _, _ in self._beams]
        return [row[0] for row in itertools.takewhile(lambda row: len(set(row)) == 1, zip(*paths, strict=False))]

    def _follow(self, tokens: Sequence[int], values: Sequence[float]) -> None:
        """Follow the beams through a frame in which these tokens have these probabilities."""
        if len(tokens) == 1 and tokens[0] == BLANK:  # most frames
            self._beams = [(prefix, blank + rest, 0.0) for prefix, blank, rest in self._beams]
            return
        found: dict[_Prefix, list[float]] = {}
        extended = self._scoring.extended
        for prefix, blank, rest in self._beams:
            for token, p in zip(tokens, values, strict=True):
                if token == BLANK:
                    _sums(found, prefix)[0] += (blank + rest) * p
                    continue
                before = blank + rest
                if token == prefix.token:
                    _sums(found, prefix)[1] += rest * p
                    before = blank
                longer = prefix.longer.get(token)
                if longer is None:
                    if not before:
                        continue
                    longer = prefix.longer[token] = extended(prefix, token)
                _sums(found, longer)[1] += before * p
        self._beams = self._best(found)

    def _best(self, found: dict[_Prefix, list[float]]) -> list[tuple[_Prefix, float, float]]:
        """Return the best prefixes. Probabilities become relative to the largest, so that they stay above zero."""
        ranked = [(prefix, blank, rest) for prefix, (blank, rest) in found.items() if blank + rest > _SMALLEST]
        if len(ranked) > self._n_beams:
            ranked.sort(key=lambda beam: math.log(beam[1] + beam[2]) + beam[0].bonus, reverse=True)
            ranked = ranked[: self._n_beams]
        largest = max(blank + rest for _, blank, rest in ranked)
        return [(prefix, blank / largest, rest / largest) for prefix, blank, rest in ranked]

    def _forget(self) -> None:
        """Keep only what the beams begin with, so that memory does not grow with what was once tried."""
        kept: set[_Prefix] = set()
        for beam in self._beams:
            prefix: _Prefix | None = beam[0]
            while prefix is not None and prefix not in kept:
                kept.add(prefix)
                prefix = prefix.before
        for prefix in kept:
            prefix.longer = {token: longer for token, longer in prefix.longer.items() if longer in kept}


def _sums(found: dict[_Prefix, list[float]], prefix: _Prefix) -> list[float]:
    sums = found.get(prefix)
    if sums is None:
        sums = found[prefix] = [0.0, 0.0]
    return sums
