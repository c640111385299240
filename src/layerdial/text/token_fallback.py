"""What is tried where a text repeats itself: other searches of the same audio, before the text is cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from layerdial.text.token_beams import decode_with_beams
from layerdial.text.token_decoding import Encoded, decode_greedily
from layerdial.text.token_rules import TokenRules, Written
from layerdial.text.token_times import decode_timed, timed_again

_BEAMS = 5


def decode_with_fallback(encoded: Encoded, seconds: Sequence[float], rules: TokenRules) -> list[Written]:
    """Return the greedy transcript of each utterance; of one that loops, the first other that is good.

    Tried are five beams, then a greedy search that may not write the tokens of the loop. Unlike a temperature, both
    give the same text each time.
    """
    written = decode_greedily(encoded, seconds, rules)
    return [
        decode_again(encoded.of(row), seconds[row], rules, found) if found.looped else found
        for row, found in enumerate(written)
    ]


def decode_one(encoded: Encoded, seconds: float, rules: TokenRules, beams: int) -> Written:
    """Return the transcript of one utterance: greedy, with the other searches where it loops, or with `beams`."""
    found = decode_once(encoded, seconds, rules, beams)
    return decode_again(encoded, seconds, rules, found) if beams == 1 and found.looped else found


def decode_once(encoded: Encoded, seconds: float, rules: TokenRules, beams: int) -> Written:
    """Return what one search finds for one utterance, greedy or with `beams`.

    It has timestamps, and each token its time, where the decoder is asked for them.
    """
    rules = rules.with_stamps(encoded.use.stamps, seconds)
    if beams > 1:
        return timed_again(encoded, seconds, decode_with_beams(encoded, seconds, rules, beams))
    return decode_timed(encoded, seconds, rules) if encoded.use.heads else decode_greedily(encoded, [seconds], rules)[0]


def decode_again(encoded: Encoded, seconds: float, rules: TokenRules, found: Written) -> Written:
    """Return the first good transcript of other searches of an utterance whose greedy one `found` loops, or `found`."""
    rules = rules.with_stamps(encoded.use.stamps, seconds)
    for other in _others(encoded, seconds, rules, found):
        if other.is_good:
            return timed_again(encoded, seconds, other)
    return found


def _others(encoded: Encoded, seconds: float, rules: TokenRules, found: Written) -> Iterator[Written]:
    yield decode_with_beams(encoded, seconds, rules, _BEAMS)
    yield decode_greedily(encoded, [seconds], rules.without(found.phrase))[0]
