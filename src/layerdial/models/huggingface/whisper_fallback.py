"""What is tried where a text repeats itself: other searches of the same audio, before the text is cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from layerdial.models.huggingface.whisper import DecoderUse, Memory, WhisperNetwork
from layerdial.models.huggingface.whisper_beam import decode_with_beams
from layerdial.models.huggingface.whisper_decoding import TokenRules, Written, decode_greedily

_BEAMS = 5


def decode_with_fallback(
    network: WhisperNetwork, memory: Memory, seconds: Sequence[float], rules: TokenRules, use: DecoderUse
) -> list[Written]:
    """Return the greedy transcript of each utterance; of one that loops, the first other that is good.

    Tried are five beams, then a greedy search that may not write the tokens of the loop. Unlike a temperature, both
    give the same text each time.
    """
    written = decode_greedily(network, memory, seconds, rules, use)
    return [
        _other(network, memory.of(row), seconds[row], rules, use, found) if found.looped else found
        for row, found in enumerate(written)
    ]


def _other(
    network: WhisperNetwork, memory: Memory, seconds: float, rules: TokenRules, use: DecoderUse, found: Written
) -> Written:
    for other in _others(network, memory, seconds, rules, use, found):
        if other.is_good:
            return other
    return found


def _others(
    network: WhisperNetwork, memory: Memory, seconds: float, rules: TokenRules, use: DecoderUse, found: Written
) -> Iterator[Written]:
    yield decode_with_beams(network, memory, seconds, rules, _BEAMS, use)
    never, not_first = rules.never.clone(), rules.not_first.clone()
    for tokens in (never, not_first):
        tokens[list(found.phrase)] = True
    without = replace(rules, never=never, not_first=not_first)
    yield decode_greedily(network, memory, [seconds], without, use)[0]
