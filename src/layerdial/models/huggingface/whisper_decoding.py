"""Greedy decoding of Whisper with cached keys and values, and the safeguards that its decoder needs.

Shapes: B batch, U tokens so far, P tokens of the prompt, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layerdial.models.huggingface.whisper import DecoderUse, Memory, WhisperNetwork, new_cache

_TOKENS_PER_SECOND = 12  # more than anybody says: a text that is longer for its audio is a loop
_FEWEST_TOKENS = 16
_REPEATS = 4  # of a phrase of at least two tokens, one after the other; a single token twice as often
_LONGEST_PHRASE = 40
_NO_SPEECH, _UNSURE = 0.6, -1.0  # as in openai-whisper


@dataclass(frozen=True)
class TokenRules:
    """Which tokens a transcript may have: never those of `never` (V,) bool, at its start not those of `not_first`.

    `end` ends it. `no_speech` is the token whose probability, right after the start, says that nobody speaks.
    """

    never: Tensor
    not_first: Tensor
    end: int
    no_speech: int | None

    @classmethod
    def of(cls, settings: Any, tokens: Sequence[str], end: int) -> TokenRules:
        """Return the rules of a checkpoint's generation_config.json; no special token but the end is ever written."""
        never = torch.zeros(len(tokens), dtype=torch.bool)
        never[list(settings.suppress_tokens or ())] = True
        never[end + 1 :] = True
        not_first = never.clone()
        not_first[list(settings.begin_suppress_tokens or ())] = True
        silent = [i for i, name in enumerate(tokens) if name in ("<|nospeech|>", "<|nocaptions|>")]
        return cls(never, not_first, end, silent[0] if silent else None)


@dataclass(frozen=True)
class Written:
    """The tokens of a transcript without its end, their mean log-probability (with the end), and what was noticed.

    `no_speech` is the probability that nobody speaks. `looped`: the text repeated itself, and was cut after the
    `phrase`; or it was longer than a text can be.
    """

    tokens: list[int]
    mean_logp: float
    no_speech: float
    looped: bool
    phrase: tuple[int, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether it may stand for a text that loops: it does not loop, and the network is sure enough of it."""
        return not self.looped and self.mean_logp > _UNSURE

    @property
    def is_silence(self) -> bool:
        """Whether nobody speaks, by OpenAI's rule: that is likely, and the text is not."""
        return self.no_speech > _NO_SPEECH and self.mean_logp < _UNSURE


NOTHING = Written([], 0.0, 1.0, False)  # of silence that was not even decoded


def decode_greedily(
    network: WhisperNetwork,
    memory: Memory,
    seconds: Sequence[float],
    rules: TokenRules,
    decoder: DecoderUse | None = None,
) -> list[Written]:
    """Return the transcript of each utterance, given the encoder's output and how long each one is."""
    decoder = decoder or network.decoder_use
    batch, device = len(memory.states_BTD), memory.states_BTD.device
    never, not_first = rules.never.to(device), rules.not_first.to(device)
    rows = [_Row(longest_text(network, s), rules.end) for s in seconds]
    cache, n_before = new_cache(), 0
    tokens_BU = torch.tensor(decoder.prompt, device=device).expand(batch, -1)
    no_speech = [0.0] * batch
    while not all(row.done for row in rows):
        logits_BUV = network.next_token(tokens_BU, memory, cache, n_before, decoder)
        if n_before == 0 and rules.no_speech is not None:
            no_speech = logits_BUV[:, 0].softmax(dim=-1)[:, rules.no_speech].tolist()
        logits_BV = logits_BUV[:, -1].masked_fill(not_first if n_before == 0 else never, -torch.inf)
        logp_B, best_B = logits_BV.log_softmax(dim=-1).max(dim=-1)
        for row, token, logp in zip(rows, best_B.tolist(), logp_B.tolist(), strict=True):
            row.add(token, logp)
        n_before += tokens_BU.shape[1]
        tokens_BU = best_B.unsqueeze(1)
    return [row.written(silent) for row, silent in zip(rows, no_speech, strict=True)]


def longest_text(network: WhisperNetwork, seconds: float) -> int:
    """Return the most tokens that a text of so many seconds may have."""
    return min(network.most_tokens, _FEWEST_TOKENS + round(_TOKENS_PER_SECOND * seconds))


class _Row:
    """One utterance while it is decoded."""

    def __init__(self, most: int, end: int) -> None:
        self.most, self.end = most, end
        self.tokens: list[int] = []
        self.logp = 0.0
        self.steps = 0
        self.done = self.looped = False
        self.phrase: tuple[int, ...] = ()

    def add(self, token: int, logp: float) -> None:
        if self.done:
            return
        self.logp, self.steps = self.logp + logp, self.steps + 1
        if token == self.end:
            self.done = True
            return
        self.tokens.append(token)
        if (phrase := looping_phrase(self.tokens)) is not None:
            self.tokens = without_loop(self.tokens, phrase)
            self.phrase, self.done, self.looped = tuple(phrase), True, True
        elif len(self.tokens) >= self.most:
            self.done = self.looped = True

    def written(self, no_speech: float) -> Written:
        return Written(self.tokens, self.logp / max(1, self.steps), no_speech, self.looped, self.phrase)


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
