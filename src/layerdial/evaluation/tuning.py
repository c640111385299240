"""The weights of a CTC beam search with a language model: a grid is searched on dev data.

The network runs once an utterance and depth. The tokens that it finds likely are kept, and searched with one choice of
weights after another, by several processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

from layerdial.evaluation.metrics import Change, ErrorCounts, bootstrap_interval, paired_change, score, total
from layerdial.recognizer import FeatureBatch, Recognizer
from layerdial.request import Request
from layerdial.subset import BlockSubset
from layerdial.text.ctc import greedy_ctc
from layerdial.text.ctc_beams import LikelyTokens, Pieces, likely_tokens
from layerdial.text.ctc_decoder import LM_WEIGHT, WORD_BONUS, CtcDecoder, ctc_decoder
from layerdial.text.normalisers import Normalizer, normalizer_of
from layerdial.text.tuned import Weights
from layerdial.transcript import joined
from layerdial.utils.parent import follow_parent

_WEIGHTS, _BONUSES = (0.0, 0.25, 0.5, 1.0, 1.5), (-1.0, 0.0, 1.0, 2.0)
_STEPS = ((0.25, 0.5), (0.125, 0.25))  # of weight and bonus, around the best so far
_MOST_MOVES = 6  # of a step: the grid may end where errors still fall
_UTTERANCES = 16  # a task


class Choice(NamedTuple):
    """A number of beams, the factor of the language model, and the bonus of a word."""

    beams: int
    lm_weight: float
    word_bonus: float

    @property
    def unusual(self) -> float:
        """How far it is from the usual weights, in steps."""
        return abs(self.lm_weight - LM_WEIGHT) / _STEPS[0][0] + abs(self.word_bonus - WORD_BONUS) / _STEPS[0][1]


Counts = dict[Choice, list[ErrorCounts]]
"""The errors of each utterance with each choice."""


@dataclass(frozen=True)
class LikelyUtterance:
    """A transcript, the greedy text, and the tokens that the network finds likely, of each piece of the utterance."""

    text: str
    greedy: str
    pieces: tuple[LikelyTokens, ...]


@dataclass(frozen=True)
class TunedDepth:
    """The errors of each utterance at a depth: greedy, with the usual weights, and with those that were chosen."""

    depth: int
    choice: Choice
    greedy: list[ErrorCounts]
    usual: list[ErrorCounts]
    tuned: list[ErrorCounts]

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the WER with the weights that were chosen."""
        return bootstrap_interval([one.errors for one in self.tuned], [one.words for one in self.tuned])

    @property
    def change(self) -> Change:
        """The change from greedy to the weights that were chosen, by pairs of utterances."""
        words = [one.words for one in self.greedy]
        return paired_change([one.errors for one in self.greedy], words, [one.errors for one in self.tuned])

    def weights(self) -> Weights:
        errors = total(self.tuned)
        beams, weight, bonus = self.choice
        return Weights(self.depth, weight, bonus, beams, errors.errors, errors.words)


def likely_utterances(recognizer: Recognizer, batch: FeatureBatch, subset: BlockSubset) -> Iterator[LikelyUtterance]:
    """Yield the utterances of a batch as a CTC model recognises them."""
    logp = recognizer.log_probs(batch, subset)
    for _, found in itertools.groupby(zip(batch.ids, batch.texts, logp, strict=True), key=lambda row: row[0]):
        rows = list(found)
        greedy = (recognizer.pieces.decode(greedy_ctc(logp_TV.argmax(axis=-1).tolist())) for _, _, logp_TV in rows)
        likely = tuple(likely_tokens(logp_TV) for _, _, logp_TV in rows)
        yield LikelyUtterance(joined(text for _, text, _ in rows), joined(greedy), likely)


@dataclass(frozen=True)
class Scorer:
    """What counts errors: a request with its language model, the tokens, the normal form, and the model's name."""

    request: Request
    pieces: Pieces
    normalizer: Normalizer
    model: str

    def greedy(self, utterances: Sequence[LikelyUtterance]) -> list[ErrorCounts]:
        return self._score(utterances, [utterance.greedy for utterance in utterances])

    def searched(self, utterances: Sequence[LikelyUtterance], choices: Sequence[Choice]) -> Counts:
        """Return the errors of each utterance with each choice."""
        decoder = ctc_decoder(self.request, self.pieces, self.model)
        assert decoder is not None
        found = Counts()
        for choice in choices:
            scoring = replace(decoder.scoring, lm_weight=choice.lm_weight, word_bonus=choice.word_bonus)
            text_of = partial(self._text, CtcDecoder(scoring, choice.beams))
            found[choice] = self._score(utterances, list(map(text_of, utterances)))
        return found

    def _text(self, decoder: CtcDecoder, utterance: LikelyUtterance) -> str:
        return joined(self.pieces.decode(decoder.labels(likely)) for likely in utterance.pieces)

    def _score(self, utterances: Sequence[LikelyUtterance], texts: Sequence[str]) -> list[ErrorCounts]:
        normal = normalizer_of(self.normalizer)
        return score((normal(one.text), normal(text)) for one, text in zip(utterances, texts, strict=True))


Evaluate = Callable[[Sequence[Choice]], Counts]


@contextmanager
def processes(jobs: int) -> Iterator[ProcessPoolExecutor | None]:
    """Yield so many processes that search, none where one is enough: this one."""
    if jobs == 1:
        yield None
        return
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=follow_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def evaluator(scorer: Scorer, utterances: Sequence[LikelyUtterance], pool: ProcessPoolExecutor | None) -> Evaluate:
    """Return what gives the errors of each utterance with some choices."""
    tasks = [utterances[start : start + _UTTERANCES] for start in range(0, len(utterances), _UTTERANCES)]

    def evaluate(choices: Sequence[Choice]) -> Counts:
        run = map if pool is None else pool.map
        parts = list(run(partial(scorer.searched, choices=choices), tasks))
        return {choice: [one for part in parts for one in part[choice]] for choice in choices}

    return evaluate


def choose(evaluate: Evaluate, beams: Sequence[int]) -> tuple[Choice, Counts]:
    """Return the choice with the fewest errors, and all that was evaluated.

    For each number of beams that is the best of a coarse grid, then of finer ones around it. Of choices with as few
    errors the one nearest to the usual weights is taken; of numbers of beams the smallest.
    """
    known, best = Counts(), list[Choice]()

    def best_of(choices: Sequence[Choice]) -> Choice:
        choices = list(dict.fromkeys(choices))
        known.update(evaluate([choice for choice in choices if choice not in known]))
        return min(choices, key=lambda choice: (total(known[choice]).errors, choice.unusual))

    for size in sorted(set(beams)):
        usual = Choice(size, LM_WEIGHT, WORD_BONUS)
        grid = [Choice(size, weight, bonus) for weight in _WEIGHTS for bonus in _BONUSES]
        best.append(_climbed(best_of([usual, *grid]), best_of))
    return min(best, key=lambda choice: total(known[choice]).errors), known


def _climbed(start: Choice, best_of: Callable[[Sequence[Choice]], Choice]) -> Choice:
    """Return the best choice that is reached from `start` by steps to neighbours with fewer errors."""
    for weight_step, bonus_step in _STEPS:
        for _ in range(_MOST_MOVES):
            moves = itertools.product((-1, 0, 1), repeat=2)
            around = [
                start._replace(
                    lm_weight=max(0.0, start.lm_weight + i * weight_step), word_bonus=start.word_bonus + j * bonus_step
                )
                for i, j in moves
            ]
            found = best_of([start, *around])
            if found == start:
                break
            start = found
    return start
