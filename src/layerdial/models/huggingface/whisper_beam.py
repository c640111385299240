"""Beam search for Whisper: several transcripts of one utterance at a time, as OpenAI's own decoding does it.

Shapes: K beams, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from layerdial.models.huggingface.whisper import DecoderUse, Memory, WhisperNetwork, new_cache
from layerdial.models.huggingface.whisper_decoding import (
    TokenRules,
    Written,
    longest_text,
    looping_phrase,
    without_loop,
)


@dataclass(frozen=True)
class _Beam:
    """The tokens of a transcript so far, and the sum of their log-probabilities."""

    tokens: tuple[int, ...] = ()
    logp: float = 0.0
    row: int = 0  # of the batch in which it was last decoded
    looped: bool = False

    @property
    def mean(self) -> float:
        """Return the mean log-probability of a finished transcript, its end included."""
        return self.logp / (len(self.tokens) + 1)


def decode_with_beams(
    network: WhisperNetwork, memory: Memory, seconds: float, rules: TokenRules, beams: int, use: DecoderUse
) -> Written:
    """Return the transcript of one utterance with the best mean log-probability of those that `beams` beams find.

    The search ends when as many transcripts are complete, or at the longest text for the audio.
    """
    device = memory.states_BTD.device
    never, not_first = rules.never.to(device), rules.not_first.to(device)
    cache, n_before = new_cache(), 0
    tokens_KU = torch.tensor([use.prompt], device=device)
    running, finished, no_speech = [_Beam()], list[_Beam](), 0.0
    most = longest_text(network, seconds)
    while running and len(finished) < beams:
        rows = memory.of_rows(len(tokens_KU))
        logits_KUV = network.next_token(tokens_KU, rows, cache, n_before, use)
        if n_before == 0 and rules.no_speech is not None:
            no_speech = float(logits_KUV[0, 0].softmax(dim=-1)[rules.no_speech])
        logp_KV = logits_KUV[:, -1].masked_fill(not_first if n_before == 0 else never, -torch.inf).log_softmax(dim=-1)
        running, ended = _extended(running, logp_KV, beams, rules.end, most)
        finished += ended
        n_before += tokens_KU.shape[1]
        if running:
            cache.reorder_cache(torch.tensor([beam.row for beam in running], device=device))
            tokens_KU = torch.tensor([[beam.tokens[-1]] for beam in running], device=device)
    best = max(finished, key=lambda beam: (not beam.looped, beam.mean))
    return Written(list(best.tokens), best.mean, no_speech, best.looped)


def _extended(
    running: list[_Beam], logp_KV: Tensor, beams: int, end: int, most: int
) -> tuple[list[_Beam], list[_Beam]]:
    """Return the best beams with one token more, and those that ended: by themselves, in a loop, or by their length."""
    total_KV = logp_KV + torch.tensor([beam.logp for beam in running], device=logp_KV.device).unsqueeze(1)
    scores, places = total_KV.flatten().topk(min(2 * beams, total_KV.numel()))
    going, ended = list[_Beam](), list[_Beam]()
    for logp, place in zip(scores.tolist(), places.tolist(), strict=True):
        row, token = divmod(place, logp_KV.shape[1])
        if logp == -torch.inf or len(going) == beams:
            break
        if token == end:
            ended.append(replace(running[row], logp=logp))
            continue
        beam = _Beam((*running[row].tokens, token), logp, row)
        phrase = looping_phrase(beam.tokens)
        if phrase is not None:
            ended.append(replace(beam, tokens=tuple(without_loop(beam.tokens, phrase)), looped=True))
        elif len(beam.tokens) >= most:
            ended.append(replace(beam, looped=True))
        else:
            going.append(beam)
    return going, ended
