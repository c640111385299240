"""What is tried where a text repeats itself: other searches of the same audio, before the text is cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from layerdial.text.token_beams import decode_with_beams
from layerdial.text.token_decoding import Encoded, decode_greedily
from layerdial.text.token_rules import TokenRules, Written

_BEAMS = 5


def decode_with_fallback(encoded: Encoded, seconds: Sequence[float], rules: TokenRules) -> list[Written]:
    """Return the greedy transcript of each utterance; of one that loops, the first other that is good.

    Tried are five beams, then a greedy search that may not write the tokens of the loop. Unlike a temperature, both
    give the same text each time.
    """
    written = decode_greedily(encoded, seconds, rules)
    return [
        _other(encoded.of(row), seconds[row], rules, found) if found.looped else found
        for row, found in enumerate(written)
    ]


def decode_one(encoded: Encoded, seconds: float, rules: TokenRules, beams: int) -> Written:
    """Return the transcript of one utterance: greedy, with the other searches where it loops, or with `beams`.

    It has timestamps where the decoder is asked for them.
    """
    rules = rules.with_stamps(encoded.use.stamps, seconds)
    if beams == 1:
        return decode_with_fallback(encoded, [seconds], rules)[0]
    return decode_with_beams(encoded, seconds, rules, beams)


def _other(encoded: Encoded, seconds: float, rules: TokenRules, found: Written) -> Written:
    for other in _others(encoded, seconds, rules, found):
        if other.is_good:
            return other
    return found


def _others(encoded: Encoded, seconds: float, rules: TokenRules, found: Written) -> Iterator[Written]:
    yield decode_with_beams(encoded, seconds, rules, _BEAMS)
    yield decode_greedily(encoded, [seconds], rules.without(found.phrase))[0]
