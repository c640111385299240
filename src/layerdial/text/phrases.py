"""Phrases that raise the score of a text while it spells them: an automaton over letters (Aho & Corasick 1975).

A text that is inside a phrase has a bonus for each letter of it so far. What ends the phrase keeps the bonus; any other
letter gives it back. Phrases begin and end where words do. Letters are those of `letters_of`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from layerdial.text.hotwords import Hotwords, letters_of

_SPACE = ord(" ")
ROOT = 0  # the state within a word that is in no phrase


class Phrases:
    """The automaton of some hotwords; `per_letter` is the bonus of a letter at weight 1, in nats.

    A state is a number: the longest beginning of a phrase that the text ends with. Phrases have a space at both ends.
    """

    def __init__(self, hotwords: Hotwords, per_letter: float) -> None:
        self.children: list[dict[int, int]] = [{}]
        self._value = [0.0]  # of a state: the bonus of a text in it
        self._kept = [0.0]  # what is left of it where no phrase goes on
        self._is_space = [False]
        self.start = self._child(ROOT, _SPACE)  # the state of an empty text
        for phrase, weight in hotwords:
            self._add(letters_of(phrase).strip(), weight * per_letter)
        self.other = self._failures()  # where a letter is looked up that does not go on
        self._steps: dict[tuple[int, bytes], tuple[int, float]] = {}

    def _child(self, state: int, letter: int) -> int:
        if letter not in self.children[state]:
            self.children[state][letter] = len(self.children)
            self.children.append({})
            self._value.append(0.0)
            self._kept.append(0.0)
            self._is_space.append(letter == _SPACE)
        return self.children[state][letter]

    def _add(self, letters: bytes, bonus: float) -> None:
        state = self.start
        for count, letter in enumerate(letters, 1):
            state = self._child(state, letter)
            self._value[state] = max(self._value[state], bonus * count)
        state = self._child(state, _SPACE)
        self._kept[state] = max(self._kept[state], bonus * len(letters))

    def _failures(self) -> list[int]:
        """Return, for each state, that of the longest end of its text that begins a phrase as well.

        On the way, longer phrases inherit what is kept of the shorter ones that they begin with.
        """
        other = [ROOT] * len(self.children)
        waiting = deque(self.children[ROOT].values())
        while waiting:
            state = waiting.popleft()
            self._value[state] = max(self._value[state], self._kept[state])
            for letter, child in self.children[state].items():
                self._kept[child] = max(self._kept[child], self._kept[state])
                back = other[state]
                while back != ROOT and letter not in self.children[back]:
                    back = other[back]
                other[child] = self.children[back].get(letter, ROOT)
                waiting.append(child)
        return other

    def ends_in_space(self, state: int) -> bool:
        return self._is_space[state]

    def left(self, state: int) -> float:
        """Return the change of the bonus where no phrase goes on, and `other[state]` takes the place of `state`."""
        return self._kept[state] - self._value[state] + self._value[self.other[state]]

    def step(self, state: int, letters: bytes) -> tuple[int, float]:
        """Return the state behind more letters, and the change of the bonus."""
        known = self._steps.get((state, letters))
        if known is None:
            known = self._steps[state, letters] = self._walk(state, letters)
        return known

    def _walk(self, state: int, letters: bytes) -> tuple[int, float]:
        change = 0.0
        for letter in letters:
            if letter == _SPACE and self._is_space[state]:
                continue  # spaces that follow each other are one
            while state != ROOT and letter not in self.children[state]:
                change += self.left(state)
                state = self.other[state]
            after = self.children[state].get(letter, ROOT)
            change += self._value[after] - self._value[state]
            state = after
        return state, change

    def end(self, state: int) -> float:
        """Return the change of the bonus where a text ends."""
        state, change = self._walk(state, b" ")
        while state != ROOT:
            change += self.left(state)
            state = self.other[state]
        return change


def unspellable(hotwords: Hotwords, pieces: Iterable[bytes]) -> list[str]:
    """Return the phrases that no sequence of pieces, each as `letters_of` returns it, spells."""
    return [phrase for (phrase, _), count in zip(hotwords, spellings(hotwords, pieces), strict=True) if count is None]


def spellings(hotwords: Hotwords, pieces: Iterable[bytes]) -> list[int | None]:
    """Return the smallest number of pieces that spells each phrase; None where none do."""
    known = {piece for piece in pieces if piece}
    longest = max(map(len, known), default=0)
    return [_fewest(b" " + letters_of(phrase).strip(), known, longest) for phrase, _ in hotwords]


def _fewest(letters: bytes, pieces: set[bytes], longest: int) -> int | None:
    fewest: list[int | None] = [0, *[None] * len(letters)]
    for end in range(1, len(letters) + 1):
        starts = (start for start in range(max(0, end - longest), end) if letters[start:end] in pieces)
        fewest[end] = min((count + 1 for start in starts if (count := fewest[start]) is not None), default=None)
    return fewest[-1]
