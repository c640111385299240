"""How many tokens speech has: a usual rate, and one that is corrected by the texts of earlier audio."""

from __future__ import annotations

import math

USUAL = 4.0  # tokens a second


def usual_text(most_tokens: int, seconds: float) -> int:
    """Return how many tokens speech of so many seconds has, about: what a pass whose cost is measured writes."""
    return min(most_tokens, max(1, round(USUAL * seconds)))


class SpeechRate:
    """A moving estimate of tokens a second of speech, and of how much the texts of equally long audio differ.

    The variance of a text's length grows with the audio. At first the usual rate counts as much as some seconds of
    audio; later on, what is older than a few minutes of it is forgotten.
    """

    SPREAD = 3.0  # the usual variance, in tokens squared a second of audio
    FIRST_SECONDS = 20.0  # of audio, as which the usual rate counts
    MOST_SECONDS = 120.0
    DEVIATIONS = 1.5  # above the mean: one text in fifteen is longer

    def __init__(self) -> None:
        self.rate, self._spread, self._seconds = USUAL, self.SPREAD, self.FIRST_SECONDS

    def observe(self, tokens: int, seconds: float) -> None:
        """Update the estimate by a text of so many tokens."""
        share = seconds / (self._seconds + seconds)
        error = tokens - self.rate * seconds
        self._spread += share * (error * error / seconds - self._spread)
        self.rate += share * (tokens / seconds - self.rate)
        self._seconds = min(self._seconds + seconds, self.MOST_SECONDS)

    def expected(self, seconds: float) -> float:
        """Return how many tokens to expect of a text of so many seconds, rather too many than too few."""
        return self.rate * seconds + self.DEVIATIONS * math.sqrt(self._spread * seconds)
