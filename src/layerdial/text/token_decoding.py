"""Greedy decoding by a decoder that writes tokens, whatever computes it.

Shapes: B batch, U tokens of a step, V vocabulary, A alignment heads, T encoder frames, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from layerdial.text.prompt import DecoderUse
from layerdial.text.token_rules import TokenRules, Written, among_all, longest_text


class Steps(Protocol):
    """A decoder in the middle of its texts, one a row, with the keys and values of the tokens so far."""

    def next(self, tokens_BU: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return logits (B, U, V) after each of the tokens, which follow those of earlier calls."""
        ...

    def reorder(self, rows: Sequence[int]) -> None:
        """Go on with these rows, of which some may come several times. Only for one utterance."""
        ...

    def queries(self) -> NDArray[np.float32]:
        """Return what the `heads` of a use ask the audio for, with each token so far (A, U, D); not after `reorder`."""
        ...


class Encoded(Protocol):
    """Encoded utterances, and a decoder that writes at most `most_tokens` of each behind the `prompt` of its `use`."""

    @property
    def use(self) -> DecoderUse: ...

    @property
    def prompt(self) -> tuple[int, ...]: ...

    @property
    def most_tokens(self) -> int: ...

    def __len__(self) -> int: ...

    def begin(self) -> Steps:
        """Return a decoder that has no tokens yet."""
        ...

    def of(self, row: int) -> Encoded:
        """Return one utterance of the batch."""
        ...

    def keys(self) -> NDArray[np.float32]:
        """Return what the `heads` of its use find the audio by (A, T, D), for one utterance."""
        ...


def decode_greedily(
    encoded: Encoded, seconds: Sequence[float], rules: TokenRules, steps: Steps | None = None
) -> list[Written]:
    """Return the transcript of each utterance, given how long each is; `steps` are a decoder without tokens yet."""
    rows = [_Row(longest_text(encoded.most_tokens, s), rules) for s in seconds]
    steps, first, own = steps or encoded.begin(), True, bool(encoded.use.heads)
    tokens_BU = np.tile(np.array(encoded.prompt, np.int64), (len(encoded), 1))
    no_speech = [0.0] * len(encoded)
    languages: list[str | None] = [None] * len(encoded)
    while not all(row.done for row in rows):
        logits_BUV = steps.next(tokens_BU)
        if first:
            no_speech = rules.nobody_speaks(logits_BUV[:, 0])
            languages = [rules.languages.other(logits_V, encoded.use) for logits_V in logits_BUV[:, 0]]
        texts = [row.tokens for row in rows]
        logp_BV = rules.log_probs(logits_BUV[:, -1], texts)
        best_B = (logp_BV + rules.bonuses(texts)).argmax(axis=-1)
        for i, (row, token, logp_V) in enumerate(zip(rows, best_B.tolist(), logp_BV, strict=True)):
            row.add(token, float(logp_V[token]))
            if own:
                row.logps.append(among_all(token, logits_BUV[i, -1], logp_V))
        tokens_BU, first = best_B[:, None], False
    told = zip(rows, no_speech, languages, strict=True)
    return [row.written(silent, language) for row, silent, language in told]


class _Row:
    """One utterance while it is decoded."""

    def __init__(self, most: int, rules: TokenRules) -> None:
        self.most, self.rules = most, rules
        self.tokens: list[int] = []
        self.logp, self.logps = 0.0, list[float]()
        self.steps = 0
        self.done = self.looped = False
        self.phrase: tuple[int, ...] = ()

    def add(self, token: int, logp: float) -> None:
        if self.done:
            return
        self.logp, self.steps = self.logp + logp, self.steps + 1
        if token == self.rules.end:
            self.done = True
            return
        self.tokens.append(token)
        if (phrase := self.rules.loop_in(self.tokens)) is not None:
            self.tokens = self.rules.without_loop(self.tokens, phrase)
            self.phrase, self.done, self.looped = tuple(phrase), True, True
        elif len(self.tokens) >= self.most:
            self.done = self.looped = True

    def written(self, no_speech: float, language: str | None) -> Written:
        mean, logps = self.logp / max(1, self.steps), tuple(self.logps[: len(self.tokens)])
        return Written(self.tokens, mean, no_speech, self.looped, self.phrase, self.steps, logps, language=language)
