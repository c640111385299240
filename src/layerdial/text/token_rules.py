"""The safeguards of a decoder that writes tokens: what it may write, when it repeats itself, when nobody speaks.

Shapes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from layerdial.text.spoken_language import NO_LANGUAGES, Languages
from layerdial.text.timestamps import Stamps, log_sum

if TYPE_CHECKING:
    from layerdial.text.byte_level import ByteTable
    from layerdial.text.hotwords import Hotwords
    from layerdial.text.token_bias import TokenBias

_TOKENS_PER_SECOND = 12  # more than anybody says: a text that is longer for its audio is a loop
_FEWEST_TOKENS = 16
_REPEATS = 4  # of a phrase of at least two tokens, one after the other; a single token twice as often
_LONGEST_PHRASE = 40
_NO_SPEECH, _UNSURE = 0.6, -1.0  # as in openai-whisper
_NO_SPEECH_TOKENS = ("<|nospeech|>", "<|nocaptions|>")


@dataclass(frozen=True)
class TokenRules:
    """Which tokens a transcript may have: never those of `never` (V,) bool, at its start not those of `not_first`.

    `end` ends it. `no_speech` is the token whose probability, right after the start, says that nobody speaks, and
    `languages` are those that are told there. With `stamps` a text has timestamps; with `bias` tokens that spell
    hotwords have a bonus.
    """

    never: NDArray[np.bool_]
    not_first: NDArray[np.bool_]
    end: int
    no_speech: int | None
    stamps: Stamps | None = None
    bias: TokenBias | None = None
    languages: Languages = NO_LANGUAGES

    @classmethod
    def of(cls, suppressed: Iterable[int], not_first: Iterable[int], tokens: Sequence[str], end: int) -> TokenRules:
        """Return the rules of a vocabulary; no special token but the end is ever written."""
        never = np.zeros(len(tokens), np.bool_)
        never[list(suppressed)] = True
        never[end + 1 :] = True
        silent = [i for i, name in enumerate(tokens) if name in _NO_SPEECH_TOKENS]
        rules = cls(never, never.copy(), end, silent[0] if silent else None, languages=Languages.of(tokens))
        rules.not_first[list(not_first)] = True
        return rules

    def without(self, tokens: Iterable[int]) -> TokenRules:
        """Return rules that forbid these tokens as well."""
        more = np.zeros_like(self.never)
        more[list(tokens)] = True
        return replace(self, never=self.never | more, not_first=self.not_first | more)

    def with_stamps(self, stamps: Stamps | None, seconds: float) -> TokenRules:
        """Return rules for a text of so many seconds with these timestamps; without any, the same rules."""
        if stamps is None:
            return self
        stamps = stamps.within(seconds)
        never, not_first = self.never.copy(), self.not_first.copy()
        for forbidden in (never, not_first):
            forbidden[stamps.first : stamps.last + 1] = False
        return replace(self, never=never, not_first=not_first, stamps=stamps)

    def with_hotwords(self, hotwords: Hotwords, tokenizer: ByteTable) -> TokenRules:
        """Return rules that prefer tokens which spell hotwords."""
        from layerdial.text.token_bias import token_bias

        return replace(self, bias=token_bias(hotwords, tokenizer, self.end))

    def bonuses(self, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Return the change (B, V) of the bonus of each text by each token that may follow; (1, 1) without hotwords."""
        if self.bias is None:
            return np.zeros((1, 1), np.float32)
        return np.stack([self.bias.changes(text) for text in texts])

    def log_probs(self, logits_BV: NDArray[np.float32], texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Return log-probabilities (B, V) of the tokens that may follow each text so far, else minus infinity."""
        forbidden = self.never if any(texts) else self.not_first
        allowed_BV = np.where(forbidden, np.float32(-np.inf), logits_BV)
        if self.stamps is not None:
            for allowed_V, text in zip(allowed_BV, texts, strict=True):
                self.stamps.restrict(allowed_V, text, self.end)
        return log_softmax(allowed_BV)

    def loop_in(self, tokens: Sequence[int]) -> list[int] | None:
        """Return the phrase that repeats at the end of a text, whatever timestamps it has; None where there is none."""
        return looping_phrase([token for token in tokens if token < self.end])

    def without_loop(self, tokens: Sequence[int], phrase: Sequence[int]) -> list[int]:
        """Return the text up to the end of the first of the phrases that repeat, with the timestamps behind it."""
        left = len(without_loop([token for token in tokens if token < self.end], phrase))
        for i, token in enumerate(tokens):
            if token < self.end and (left := left - 1) < 0:
                return list(tokens[:i])
        return list(tokens)

    def nobody_speaks(self, logits_BV: NDArray[np.float32]) -> list[float]:
        """Return the probability of no speech of each row, from the logits right after the start."""
        if self.no_speech is None:
            return [0.0] * len(logits_BV)
        probabilities: list[float] = np.exp(log_softmax(logits_BV)[:, self.no_speech]).tolist()
        return probabilities


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logarithm of the softmax over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    found: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def among_all(token: int, logits_V: NDArray[np.float32], logp_V: NDArray[np.float32]) -> float:
    """Return the log-probability of a token among all; `logp_V` are those among the tokens that may be written."""
    allowed = float(logits_V[token]) - float(logp_V[token])
    forbidden = log_sum(logits_V[logp_V == -np.inf])
    return float(logits_V[token]) - float(np.logaddexp(allowed, forbidden))


@dataclass(frozen=True)
class SpokenToken:
    """When a token is spoken, in seconds of the audio, and its log-probability among all tokens of the vocabulary."""

    start: float
    end: float
    logp: float


@dataclass(frozen=True)
class Written:
    """The tokens of a transcript without its end, their mean log-probability (with the end), and what was noticed.

    `no_speech` is the probability that nobody speaks. `looped`: the text repeated itself, and was cut after the
    `phrase`; or it was longer than a text can be. `n_steps` is how often the decoder ran for it. Where words are asked
    for, each token has its log-probability among all (`logps`), and its time. `language` is the code of another
    language than the prompt's that the audio sounds like, "" if it does not, and None where the decoder cannot tell.
    """

    tokens: list[int]
    mean_logp: float
    no_speech: float
    looped: bool
    phrase: tuple[int, ...] = ()
    n_steps: int = 0
    logps: tuple[float, ...] = ()
    spoken: tuple[SpokenToken, ...] = ()
    language: str | None = None

    @property
    def is_good(self) -> bool:
        """Whether it may stand for a text that loops: it does not loop, and the network is sure enough of it."""
        return not self.looped and self.mean_logp > _UNSURE

    @property
    def is_silence(self) -> bool:
        """Whether nobody speaks, by OpenAI's rule: that is likely, and the text is not."""
        return self.no_speech > _NO_SPEECH and self.mean_logp < _UNSURE

    def text(self, decode: Callable[[Sequence[int]], str]) -> str:
        """Return the text that `decode` makes of the tokens; none where nobody speaks."""
        return "" if self.is_silence else decode(self.tokens)


NOTHING = Written([], 0.0, 1.0, False)  # of silence that was not even decoded


def longest_text(most_tokens: int, seconds: float) -> int:
    """Return the most tokens that a text of so many seconds may have, from a decoder that writes `most_tokens`."""
    return min(most_tokens, _FEWEST_TOKENS + round(_TOKENS_PER_SECOND * seconds))


def looping_phrase(tokens: Sequence[int]) -> list[int] | None:
    """Return the phrase that repeats at the end of tokens; None where there is none."""
    for size in range(1, min(_LONGEST_PHRASE, len(tokens) // _REPEATS) + 1):
        repeats = _REPEATS if size > 1 else 2 * _REPEATS
        tail = list(tokens[-size * repeats :])
        if len(tokens) >= size * repeats and tail == tail[:size] * repeats:
            return tail[:size]
    return None


def without_loop(tokens: Sequence[int], phrase: Sequence[int]) -> list[int]:
    """Return the tokens up to the end of the first of the phrases that repeat at their end."""
    repeats = _REPEATS if len(phrase) > 1 else 2 * _REPEATS
    return list(tokens[: len(tokens) - len(phrase) * (repeats - 1)])
