"""A sweep: evaluation of one subset after another, each row written as soon as it is made."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layerdial.errors import UserError
from layerdial.evaluate import Evaluation, FeatureBatch, Recognizes, collate_features, evaluate
from layerdial.features import SAMPLE_RATE, fbank
from layerdial.files import write_text
from layerdial.ladder import Ladder, blocks_at
from layerdial.metrics import bootstrap_interval
from layerdial.picture import draw_sweep
from layerdial.report import Row, append_row, latest_rows, read_rows
from layerdial.subset import Blocks, BlockSubset, check_depth

SELECTION_RULES = ("ladder", "prefix", "even", "random", "chosen")
# What a measurement belongs to. A row with the same of these is not measured again.
_MEASURED_FOR = ("subset", "method", "model", "fingerprint", "cuts", "cuts_contents", "device", "threads")


@dataclass(frozen=True, slots=True)
class Timing:
    """How latency is measured: on `seconds` of audio, one utterance, median of `repeats` turns after `warmup`.

    All subsets take turns; after `budget_s` seconds no further turn begins (but three are measured).
    """

    seconds: float = 10.0
    warmup: int = 2
    repeats: int = 7
    budget_s: float = 60.0

    def __call__(self, recognizer: Recognizes, subsets: Sequence[Blocks]) -> list[Row]:
        """Return `latency_ms` of the network alone, and `rtf` with features and decoding, of each subset."""
        return self.in_turns([(recognizer, subset) for subset in subsets])

    def in_turns(self, passes: Sequence[tuple[Recognizes, Blocks]]) -> list[Row]:
        """Return the same for the subsets of several recognisers, all in the same turns."""
        from layerdial.timing import measure_in_turns

        alone = [_network_pass(recognizer, subset, self.seconds) for recognizer, subset in passes]
        whole = [_recognition(recognizer, subset, self.seconds, features=True) for recognizer, subset in passes]
        found = measure_in_turns([*alone, *whole], self.warmup, self.repeats, self.budget_s)
        return [
            {"latency_ms": round(ms_alone, 3), "rtf": round(ms_whole / 1000 / self.seconds, 6)}
            for ms_alone, ms_whole in zip(found[: len(passes)], found[len(passes) :], strict=True)
        ]


# Measures `latency_ms` and `rtf` of each subset of a recogniser.
Times = Callable[[Recognizes, Sequence[Blocks]], Sequence[Row]]


def select_subsets(
    rule: str, depths: Sequence[int] | None, n_blocks: int, ladder: Ladder | None = None, seed: int = 0
) -> list[Blocks]:
    """The subset of each depth (none given: every depth from 1 to n_blocks) by one of `SELECTION_RULES`."""
    if rule not in SELECTION_RULES:
        raise UserError(f"unknown selection rule {rule!r}; choose one of {', '.join(SELECTION_RULES)}")
    depths = [check_depth(depth, n_blocks) for depth in (range(1, n_blocks + 1) if depths is None else depths)]
    if rule == "random":
        return [BlockSubset.random(n_blocks, depth, seed) for depth in depths]
    return [blocks_at(rule, n_blocks, depth, ladder) for depth in depths]


def sweep(
    recognizer: Recognizes,
    batches: Iterable[FeatureBatch],
    subsets: Sequence[Blocks],
    out: Path | None = None,
    extra: Mapping[str, Any] | None = None,
    *,
    timing: Times = Timing(),
    title: str = "",
    progress: Callable[[int, str], None] | None = None,
) -> Generator[Row, None, None]:
    """Evaluate each subset on all batches (gone through once a subset) and yield a row for it, in the order given.

    `extra` goes into every row; `method`, `select`, `model`, `fingerprint` (of the weights), `cuts` and
    `cuts_contents` (a hash) are understood.
    With `out`, rows are appended to `out/sweep.jsonl` and utterances to `out/utterances/` as they are made, rows that
    are there already are yielded without measuring again, and `out/sweep.png` shows all rows of these cuts at the end.
    """
    labels = dict(extra or {}) | _where(recognizer)
    subsets = list(dict.fromkeys(subsets))
    rows = read_rows(out / "sweep.jsonl") if out else []
    known = {_measured_for(row): row for row in rows}
    wanted = [labels | {"subset": subset.key} for subset in subsets]
    pending = [subset for subset, row in zip(subsets, wanted, strict=True) if _measured_for(row) not in known]
    if progress and pending:
        progress(len(subsets) - len(pending), f"timing {len(pending)} subsets")
    times = dict(zip(pending, timing(recognizer, pending), strict=True))
    for done, (subset, row) in enumerate(zip(subsets, wanted, strict=True), 1):
        earlier = known.get(_measured_for(row))
        if earlier is None:
            evaluation = evaluate(recognizer, batches, subset)
            made = labels | measure_subset(recognizer, evaluation, subset) | times[subset]
            made["rejected"] = len(getattr(batches, "rejected", ()))
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
        same = ("cuts", "cuts_contents")
        rows = [row for row in read_rows(out / "sweep.jsonl") if all(row.get(key) == labels.get(key) for key in same)]
        draw_sweep(latest_rows(rows), out / "sweep.png", title)


def _measured_for(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(None if row.get(name) is None else str(row[name]) for name in _MEASURED_FOR)


def measure_subset(recognizer: Recognizes, evaluation: Evaluation, subset: Blocks) -> Row:
    """Errors, intervals and costs of one subset."""
    if not evaluation.ids:
        raise UserError("nothing to evaluate: the cuts hold no utterance")
    words, chars = evaluation.wer, evaluation.cer
    counts = evaluation.word_counts
    low, high = bootstrap_interval([count.errors for count in counts], [count.words for count in counts])
    return {
        "subset": subset.key,
        "depth": subset.depth,
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
        **_cost(recognizer, subset),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _cost(recognizer: Recognizes, subset: Blocks) -> Row:
    """Counts from the torch network, or from a recogniser that knows its own `cost(subset)`, or none."""
    network = getattr(recognizer, "network", None)
    if network is not None:
        from layerdial.models.cost import subset_cost

        cost = subset_cost(network, subset)
    elif hasattr(recognizer, "cost"):
        cost = recognizer.cost(subset)
    else:
        return {"macs_per_second": None, "parameters": None}
    return {"macs_per_second": cost.macs_per_second, "parameters": cost.parameters}


# -------------------------------------------------------------------------------------------------------- timing


def _where(recognizer: Recognizes) -> Row:
    """What times belong to; exported models run on the CPU."""
    where = {"device": str(getattr(recognizer, "device", "cpu")), "threads": getattr(recognizer, "threads", None)}
    return {name: value for name, value in where.items() if value is not None}


def _network_pass(recognizer: Recognizes, subset: Blocks, seconds: float) -> Callable[[], object]:
    """The network alone on one utterance; where a recogniser shows none, recognition of ready features."""
    network = getattr(recognizer, "network", None)
    if network is None:
        return _recognition(recognizer, subset, seconds, features=False)
    from layerdial.models.cost import forward_pass

    return forward_pass(network, subset, seconds)


def _recognition(recognizer: Recognizes, subset: Blocks, seconds: float, features: bool) -> Callable[[], list[str]]:
    """Recognition of one utterance of noise; with `features`, from its samples."""
    samples = np.random.default_rng(0).normal(0.0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32)
    compute = getattr(recognizer, "features", fbank)
    ready = compute(samples)

    def run() -> list[str]:
        computed = compute(samples) if features else ready
        return recognizer.recognize(collate_features(["noise"], [computed], [""], seconds), subset)

    return run


# ---------------------------------------------------------------------------------------------------- utterances


def _write_utterances(out: Path, row: Row, evaluation: Evaluation) -> str:
    """Write what was recognised, for paired comparison and for reading; return the file's name within `out`."""
    measured_for = hashlib.sha256(repr(_measured_for(row)).encode()).hexdigest()[:8]
    label = re.sub(r"[^\w.-]+", "-", str(row.get("method") or row.get("model") or "model")).strip("-")
    name = f"utterances/{label}-{row['subset']}-{measured_for}.jsonl"
    write_text(out / name, utterance_lines(evaluation))
    return name


def utterance_lines(evaluation: Evaluation) -> str:
    """A JSON line an utterance: id, what was said, what was recognised, errors in words and in characters."""
    columns = (
        evaluation.ids,
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
        for i, reference, hypothesis, words, chars in zip(*columns, strict=True)
    ]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
