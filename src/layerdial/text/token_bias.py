"""Hotwords in the search of a decoder that writes byte-level tokens: the bonus of each token that may come next.

Shapes: V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdial.text.hotwords import Hotwords, letters_of
from layerdial.text.phrases import ROOT, Phrases

PER_LETTER = 0.3  # nats that a hotword of weight 1 gets a letter
_SPACE = ord(" ")
_MOST_STATES = 200  # whose bonuses are kept, 0.2 MB each


class TokenBias:
    """The bonuses of a vocabulary's tokens. `end` ends a text; tokens behind it are special and change nothing."""

    def __init__(self, phrases: Phrases, letters: Sequence[bytes], end: int, n_tokens: int) -> None:
        self._phrases, self._letters, self._end, self._n_tokens = phrases, letters, end, n_tokens
        groups: dict[int, list[int]] = defaultdict(list)  # by the first letter, and by that behind a space
        behind: dict[int, list[int]] = defaultdict(list)
        for token, text in enumerate(letters):
            if text:
                groups[text[0]].append(token)
            if len(text) > 1 and text[0] == _SPACE:
                behind[text[1]].append(token)
        self._groups, self._behind = groups, behind
        self._inner = [token for token, text in enumerate(letters) if b" " in text[1:]]
        self._empty = [token for token, text in enumerate(letters) if not text]
        self._blank = [token for token, text in enumerate(letters) if text == b" "]
        self._known: dict[int, NDArray[np.float32]] = {}

    def state(self, text: Iterable[int]) -> tuple[int, float]:
        """Return the state behind a text, and its bonus."""
        state, bonus = self._phrases.start, 0.0
        for token in text:
            if token < self._end:
                state, change = self._phrases.step(state, self._letters[token])
                bonus += change
        return state, bonus

    def changes(self, text: Iterable[int]) -> NDArray[np.float32]:
        """Return the change (V,) of the bonus of a text by each token that may come next."""
        return self._changes(self.state(text)[0])

    def _changes(self, state: int) -> NDArray[np.float32]:
        known = self._known.get(state)
        if known is None:
            if len(self._known) >= _MOST_STATES:
                self._known.clear()
            known = self._known[state] = self._computed(state)
        return known

    def _computed(self, state: int) -> NDArray[np.float32]:
        """Compute the changes from those of the state that takes its place where no phrase goes on."""
        phrases = self._phrases
        if state == ROOT:
            found = np.zeros(self._n_tokens, np.float32)
            walked = self._tokens_after(phrases.start)
        else:
            found = self._changes(phrases.other[state]) + np.float32(phrases.left(state))
            found[self._end + 1 :] = 0.0
            walked = [token for letter in phrases.children[state] for token in self._groups[letter] if letter != _SPACE]
            if phrases.ends_in_space(state):
                walked = self._tokens_after(state)
                found[self._blank] = 0.0
            elif _SPACE in phrases.children[state]:
                spaced = self._groups[_SPACE]
                child, change = phrases.step(state, b" ")
                found[spaced] = self._changes(child)[spaced] + np.float32(change)
            found[self._empty] = 0.0
        for token in {*walked, *self._inner}:
            found[token] = phrases.step(state, self._letters[token])[1]
        found[self._end] = phrases.end(state)
        return found

    def _tokens_after(self, state: int) -> list[int]:
        """Return the tokens that go on from a state that ends in a space, with or without another space."""
        letters = self._phrases.children[state]
        return [token for letter in letters for token in (*self._groups[letter], *self._behind[letter])]


@lru_cache(maxsize=4)
def token_bias(hotwords: Hotwords, tokenizer: Any, end: int) -> TokenBias:
    """Return the bonuses of hotwords for the tokens of a byte-level `tokenizer`, whose `bytes` are known."""
    return TokenBias(Phrases(hotwords, PER_LETTER), _letters_of(tokenizer), end, len(tokenizer.tokens))


@lru_cache(maxsize=2)
def _letters_of(tokenizer: Any) -> list[bytes]:
    return [letters_of(text) for text in tokenizer.bytes]
