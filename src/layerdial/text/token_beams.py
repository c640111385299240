"""Beam search: several transcripts of one utterance at a time, as OpenAI's own decoding does it.

Shapes: K beams, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from layerdial.text.token_decoding import Encoded
from layerdial.text.token_rules import TokenRules, Written, longest_text


@dataclass(frozen=True)
class _Beam:
    """The tokens of a transcript so far, the sum of their log-probabilities, and the bonus of hotwords."""

    tokens: tuple[int, ...] = ()
    logp: float = 0.0
    row: int = 0  # of the batch in which it was last decoded
    looped: bool = False
    bonus: float = 0.0

    @property
    def mean(self) -> float:
        """Return the mean log-probability of a finished transcript, its end included."""
        return self.logp / (len(self.tokens) + 1)

    @property
    def score(self) -> float:
        """Return the mean with the bonus of hotwords, by which transcripts are compared."""
        return (self.logp + self.bonus) / (len(self.tokens) + 1)


def decode_with_beams(encoded: Encoded, seconds: float, rules: TokenRules, beams: int) -> Written:
    """Return the transcript of one utterance with the best mean log-probability of those that `beams` beams find.

    The search ends when as many transcripts are complete, or at the longest text for the audio.
    """
    steps, first = encoded.begin(), True
    tokens_KU = np.array([encoded.prompt], np.int64)
    running, finished, n_steps = [_Beam()], list[_Beam](), 0
    no_speech, language = 0.0, None
    most = longest_text(encoded.most_tokens, seconds)
    while running and len(finished) < beams:
        logits_KUV, n_steps = steps.next(tokens_KU), n_steps + 1
        if first:
            (no_speech,) = rules.nobody_speaks(logits_KUV[:, 0])
            language = rules.languages.other(logits_KUV[0, 0], encoded.use)
        logp_KV = rules.log_probs(logits_KUV[:, -1], [beam.tokens for beam in running])
        running, ended = _extended(running, logp_KV, beams, rules, most)
        finished += ended
        first = False
        if running:
            steps.reorder([beam.row for beam in running])
            tokens_KU = np.array([[beam.tokens[-1]] for beam in running])
    best = max(finished, key=lambda beam: (not beam.looped, beam.score))
    return Written(list(best.tokens), best.mean, no_speech, best.looped, n_steps=n_steps, language=language)


def _extended(
    running: list[_Beam], logp_KV: NDArray[np.float32], beams: int, rules: TokenRules, most: int
) -> tuple[list[_Beam], list[_Beam]]:
    """Return the best beams with one token more, and those that ended: by themselves, in a loop, or by their length."""
    bonus_KV = rules.bonuses([beam.tokens for beam in running])
    bonus_KV = bonus_KV + np.array([[beam.bonus] for beam in running], np.float32)
    total = (logp_KV + bonus_KV + np.array([[beam.logp] for beam in running], np.float32)).ravel()
    places = _largest(total, 2 * beams)
    going, ended = list[_Beam](), list[_Beam]()
    for score, place in zip(total[places].tolist(), places.tolist(), strict=True):
        row, token = divmod(place, logp_KV.shape[1])
        bonus = float(bonus_KV[row, token if rules.bias else 0])
        logp = score - bonus
        if score == -np.inf or len(going) == beams:
            break
        if token == rules.end:
            ended.append(replace(running[row], logp=logp, bonus=bonus))
            continue
        beam = _Beam((*running[row].tokens, token), logp, row, bonus=bonus)
        phrase = rules.loop_in(beam.tokens)
        if phrase is not None:
            ended.append(replace(beam, tokens=tuple(rules.without_loop(beam.tokens, phrase)), looped=True))
        elif len(beam.tokens) >= most:
            ended.append(replace(beam, looped=True))
        else:
            going.append(beam)
    return going, ended


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Return the places of the `count` largest values, the largest first."""
    places = np.argpartition(values, -count)[-count:] if count < len(values) else np.arange(len(values))
    return places[np.argsort(-values[places], kind="stable")]
