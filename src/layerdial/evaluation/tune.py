"""`layerdial tune-decoder`: the weights of a language model for each depth of a CTC model, stored beside it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from layerdial.errors import UserError
from layerdial.evaluation.load import load_model
from layerdial.evaluation.metrics import total
from layerdial.evaluation.run import FEW_WORDS, resolve
from layerdial.evaluation.tuning import Choice, Scorer, TunedDepth, choose, evaluator, likely_utterances, processes
from layerdial.ladder import depths_of
from layerdial.recognizer import Recognizer
from layerdial.request import Request
from layerdial.runtime.session import usable_cpus
from layerdial.text.ctc_decoder import BEAMS, LM_WEIGHT, WORD_BONUS, ctc_decoder
from layerdial.text.normalisers import Normalizer, normalizer_of
from layerdial.text.tuned import TunedDecoder, save_tuned
from layerdial.utils.files import check_writable, model_name
from layerdial.utils.progress import progress

if TYPE_CHECKING:
    from layerdial.data.batching import FeatureBatches

_log = logging.getLogger(__name__)


def tune_model(
    folder: Path,
    cuts: Path,
    lm: Path,
    hotwords: Mapping[str, float] | None = None,
    depths: Sequence[int] | None = None,
    beams: Sequence[int] | None = None,
    device: str = "cpu",
    workers: int = 1,
    jobs: int | None = None,
    normalizer: Normalizer = "basic",
) -> tuple[Path, list[TunedDepth]]:
    """Choose the weights of a language model at each depth on `cuts` (dev data, never test), and store them.

    `decoder.json` beside the weights has them. `depths` are all that the ladder has unless given. Raises `UserError`
    for what is no CTC model, and for a language model of another vocabulary.
    """
    from layerdial.data.batching import FeatureBatches

    normalizer_of(normalizer)
    folder, model_id = resolve(folder)
    recognizer = load_model(folder, device)
    request = Request(lm=str(lm), hotwords=hotwords)
    ctc_decoder(request, recognizer.pieces, recognizer.name)  # what cannot be used is said before the work
    depths = list(dict.fromkeys(depths or depths_of(recognizer.ladder, recognizer.n_blocks)))
    for depth in depths:
        recognizer.subset(depth)
    for size in beams or ():
        Request(beams=size)
    check_writable(folder)
    batches = FeatureBatches(cuts, recognizer.features, workers=workers)
    scorer = Scorer(request, recognizer.pieces, normalizer, recognizer.name)
    found = list[TunedDepth]()
    with processes(jobs or usable_cpus()) as pool, progress(f"tune {model_name(folder)}", len(depths)) as update:
        for depth in depths:
            found.append(_tune_depth(recognizer, batches, scorer, depth, beams or (BEAMS,), pool))
            update(len(found), f"depth {depth}: WER {total(found[-1].tuned).rate:.2%}")
    _warn_of_few_words(cuts, total(found[0].tuned).words)
    tuned = TunedDecoder(lm.name, str(cuts), tuple(one.weights() for one in found))
    return save_tuned(folder, model_id, lm, tuned), found


def _tune_depth(
    recognizer: Recognizer,
    batches: FeatureBatches,
    scorer: Scorer,
    depth: int,
    beams: Sequence[int],
    pool: ProcessPoolExecutor | None,
) -> TunedDepth:
    subset = recognizer.subset(depth)
    utterances = [one for batch in batches for one in likely_utterances(recognizer, batch, subset)]
    greedy = scorer.greedy(utterances)
    if not total(greedy).words:
        raise UserError(f"{batches.cuts} has no words that can be scored; give dev cuts with transcripts")
    choice, known = choose(evaluator(scorer, utterances, pool), beams)
    usual = known[Choice(choice.beams, LM_WEIGHT, WORD_BONUS)]
    return TunedDepth(depth, choice, greedy, usual, known[choice])


def _warn_of_few_words(cuts: Path, words: int) -> None:
    if words < FEW_WORDS:
        _log.warning("%s has %d words; below %d it is chance that chooses, give more dev cuts", cuts, words, FEW_WORDS)
