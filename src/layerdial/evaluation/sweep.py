"""A sweep: evaluation of one subset after another, each row written as soon as it is made."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from layerdial.audio.files import SAMPLE_RATE
from layerdial.errors import UserError
from layerdial.evaluation.emission import Known, evaluate_with_delay
from layerdial.evaluation.evaluate import Batches, Evaluation, evaluate
from layerdial.evaluation.latency import Times, Timing
from layerdial.evaluation.metrics import bootstrap_interval
from layerdial.evaluation.plots import draw_sweep
from layerdial.evaluation.searches import SEARCH, SEARCH_KEYS, search_labels, searches_of
from layerdial.evaluation.tables import latest_rows
from layerdial.recognizer import Recognizer
from layerdial.request import Request
from layerdial.subset import Blocks, ChunkSchedule
from layerdial.text.normalisers import Normalizer
from layerdial.utils.files import json_text, write_text
from layerdial.utils.rows import Row, append_row, read_rows

# The keys that identify a measurement: one with the same values is not repeated.
_MEASURED_FOR = ("subset", "method", "model", "fingerprint", "cuts", "cuts_contents", "device", "threads")
_NORMALIZER = "normalizer"  # a key of rows that were not normalised by "basic"


def sweep(
    recognizer: Recognizer,
    batches: Batches,
    subsets: Sequence[Blocks],
    out: Path | None = None,
    extra: Mapping[str, Any] | None = None,
    *,
    timing: Times | None = None,
    title: str = "",
    progress: Callable[[int, str], None] | None = None,
    normalizer: Normalizer = "basic",
    request: Request | None = None,
    words: Known | None = None,
) -> Generator[Row, None, None]:
    """Evaluate each subset on all batches (iterated once a subset) and yield a row for it, in the order given.

    With a `request` whose search is not greedy, a second row follows each, of the same subset with that search. It has
    the network's latency, and no `rtf`.

    Rows of chunks have `chunk_ms`, and with `words`, those of the cuts with their times, how long after its end a word
    is written.

    `extra` is added to every row. `method`, `select`, `model`, `fingerprint` (of the weights), `cuts` and
    `cuts_contents` (a hash) have a meaning here.

    With `out`, rows are appended to `out/sweep.jsonl` and utterances to `out/utterances/` as they are made. Rows that
    are there already are yielded without measuring again. At the end `out/sweep.png` shows all rows of these cuts.
    """
    labels = dict(extra or {}) | {"device": recognizer.device, "threads": recognizer.threads}
    if normalizer != "basic":
        labels[_NORMALIZER] = normalizer
    subsets = list(dict.fromkeys(subsets))
    rows = read_rows(out / "sweep.jsonl") if out else []
    known = {_measured_for(row): row for row in rows}
    wanted = [
        (subset, asked, labels | _named(recognizer, subset) | search_labels(recognizer, asked, subset))
        for subset in subsets
        for asked in searches_of(request)
    ]
    missing = [subset for subset, _, row in wanted if _measured_for(row) not in known]
    times = {subset: _times_of(known.get(_measured_for(labels | {"subset": subset.key}))) for subset in missing}
    pending = [subset for subset, found in times.items() if not found]
    if progress and pending:
        progress(len(wanted) - len(missing), f"timing {len(pending)} subsets")
    times |= dict(zip(pending, (timing or Timing())(recognizer, pending), strict=True))
    for done, (subset, asked, row) in enumerate(wanted, 1):
        earlier = known.get(_measured_for(row))
        if earlier is None:
            if asked is None:
                evaluation, delay = evaluate_with_delay(recognizer, batches, subset, words or {}, normalizer)
            else:
                evaluation, delay = evaluate(recognizer, batches, subset, normalizer, asked), {}
            made = row | measure_subset(recognizer, evaluation, subset) | times[subset] | delay
            if asked is not None:
                made.pop("rtf", None)  # which is of a greedy search
            made["rejected"] = len(batches.rejected)
            if out:
                made["utterances_file"] = _write_utterances(out, made, evaluation)
        else:
            made = earlier | labels
        if out and made not in rows:  # measured now, or before under another selection rule
            append_row(out / "sweep.jsonl", made)
        if progress:
            progress(done, f"depth {subset.depth}: WER {100 * made['wer']:.2f} %" if made["wer"] is not None else "")
        yield made
    if out:
        same = ("cuts", "cuts_contents", _NORMALIZER)
        rows = [row for row in read_rows(out / "sweep.jsonl") if all(row.get(key) == labels.get(key) for key in same)]
        draw_sweep(latest_rows(rows), out / "sweep.png", title)


def _named(recognizer: Recognizer, blocks: Blocks) -> Row:
    """Return what a row calls the blocks that run and, where they are the same in all chunks, the size of these."""
    if not isinstance(blocks, ChunkSchedule) or len(blocks.frames) > 1:
        return {"subset": blocks.key}
    samples = blocks.frames[0] * recognizer.features.samples_per_frame
    return {"subset": blocks.key, "chunk_ms": 1000 * samples // SAMPLE_RATE}


def _times_of(greedy: Mapping[str, Any] | None) -> Row:
    """Return the times of the greedy row of a subset, if it was measured before: another search runs that network."""
    return {name: greedy[name] for name in ("latency_ms", "rtf") if name in greedy} if greedy else {}


def _measured_for(row: Mapping[str, Any]) -> tuple[Any, ...]:
    values = tuple(None if row.get(name) is None else str(row[name]) for name in _MEASURED_FOR)
    values += (row[_NORMALIZER],) if row.get(_NORMALIZER) else ()
    return values + tuple(str(row.get(name)) for name in SEARCH_KEYS) if row.get(SEARCH) else values


def measure_subset(recognizer: Recognizer, evaluation: Evaluation, subset: Blocks) -> Row:
    """Return errors, intervals and costs of one subset. Raises `UserError` where there is no utterance."""
    cost = recognizer.cost(subset)
    costs = {"macs_per_second": cost.macs_per_second, "parameters": cost.parameters}
    return {"subset": subset.key, "depth": subset.depth} | measure_errors(evaluation) | costs


def measure_errors(evaluation: Evaluation) -> Row:
    """Return errors and intervals. Raises `UserError` where there is no utterance."""
    if not evaluation.ids:
        raise UserError("nothing to evaluate: the cuts hold no utterance")
    counts, words, chars = evaluation.word_counts, evaluation.wer, evaluation.cer
    low, high = bootstrap_interval([count.errors for count in counts], [count.words for count in counts])
    return {
        "wer": _finite(words.rate),
        "wer_low": _finite(low),
        "wer_high": _finite(high),
        "errors": words.errors,
        "words": words.words,
        "substitutions": words.substitutions,
        "deletions": words.deletions,
        "insertions": words.insertions,
        "cer": _finite(chars.rate),
        "char_errors": chars.errors,
        "chars": chars.words,
        "utterances": len(evaluation.ids),
        "audio_seconds": round(evaluation.audio_seconds, 3),
    }


def measure_again(evaluation: Evaluation, normalizer: Normalizer) -> Row:
    """Return errors and interval of the same texts in another normal form, by names such as `wer_whisper_english`."""
    found, ending = measure_errors(evaluation.normalized_by(normalizer)), normalizer.replace("-", "_")
    return {f"{name}_{ending}": found[name] for name in ("wer", "wer_low", "wer_high", "errors", "words")}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# ---------------------------------------------------------------------------------------------------- utterances


def _write_utterances(out: Path, row: Row, evaluation: Evaluation) -> str:
    """Write references and hypotheses, for paired comparison and for reading. Return the file's name within `out`."""
    measured_for = hashlib.sha256(repr(_measured_for(row)).encode()).hexdigest()[:8]
    label = re.sub(r"[^\w.-]+", "-", str(row.get("method") or row.get("model") or "model")).strip("-")
    name = f"utterances/{label}-{row['subset']}-{measured_for}.jsonl"
    write_text(out / name, utterance_lines(evaluation))
    return name


def utterance_lines(evaluation: Evaluation) -> str:
    """Return a JSON line an utterance: id, reference, hypothesis, errors in words and in characters.

    Where the recogniser wrote more than capitals that the hypothesis lacks, its text is there too.
    """
    columns = (
        evaluation.ids,
        evaluation.recognized,
        evaluation.references,
        evaluation.hypotheses,
        evaluation.word_counts,
        evaluation.char_counts,
    )
    lines = [
        {
            "id": i,
            "reference": reference,
            "hypothesis": hypothesis,
            "errors": words.errors,
            "words": words.words,
            "char_errors": chars.errors,
            "chars": chars.words,
        }
        | ({} if text.lower() == hypothesis else {"text": text})
        for i, text, reference, hypothesis, words, chars in zip(*columns, strict=True)
    ]
    return "".join(json_text(line) + "\n" for line in lines)
