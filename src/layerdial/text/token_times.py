"""When each token of a transcript is spoken: a greedy search that notes it, or another run of the decoder over a text.

The first costs next to nothing. The second is for texts of other searches, whose beams come and go.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np

from layerdial.text.cross_attention import FRAMES_PER_SECOND, first_frames
from layerdial.text.token_decoding import Encoded, Steps, decode_greedily
from layerdial.text.token_rules import SpokenToken, TokenRules, Written, log_softmax

_LATE = 0.08  # seconds that a decoder reads on before it writes the next token, as measured (docs/whisper.md)


def decode_timed(encoded: Encoded, seconds: float, rules: TokenRules) -> Written:
    """Return the greedy transcript of one utterance, with the time of each token."""
    steps = encoded.begin()
    return _timed(encoded, steps, seconds, decode_greedily(encoded, [seconds], rules, steps)[0])


def timed_again(encoded: Encoded, seconds: float, found: Written) -> Written:
    """Return a transcript with the time of each token, by running the decoder on it; as it is if none is asked for."""
    if not encoded.use.heads or not found.tokens:
        return found
    steps, prompt = encoded.begin(), encoded.prompt
    (logits_UV,) = steps.next(np.array([[*prompt, *found.tokens]], np.int64))
    before = np.arange(len(found.tokens)) + len(prompt) - 1
    logps = log_softmax(logits_UV[before])[np.arange(len(found.tokens)), found.tokens]
    return _timed(encoded, steps, seconds, replace(found, logps=tuple(logps.tolist())))


def _timed(encoded: Encoded, steps: Steps, seconds: float, found: Written) -> Written:
    """Return a transcript with times from what the decoder has attended to.

    A token is spoken where the decoder reads while it writes it: the step before, whose input is the last token.
    """
    n_tokens, before = len(found.tokens), len(encoded.prompt) - 1
    if not n_tokens:
        return found
    n_frames = math.ceil(round(seconds * FRAMES_PER_SECOND, 6))
    keys_ATD = encoded.keys()[:, :n_frames]
    queries_AUD = steps.queries()[:, before : before + n_tokens + 1]  # and what follows the last token, if it ran
    ends = [*first_frames(queries_AUD, keys_ATD).tolist(), keys_ATD.shape[1]][: n_tokens + 1]
    times = pairwise(max(0.0, frame / FRAMES_PER_SECOND - _LATE) for frame in ends)
    spoken = tuple(SpokenToken(*time, logp) for time, logp in zip(times, found.logps, strict=True))
    return replace(found, spoken=spoken)
