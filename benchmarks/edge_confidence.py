"""Is it worth being unsure? `transcribe(depth=DEEP, confidence=C, first_depth=SHALLOW)` against fixed depths.

Texts and confidences are those of one pass over every depth; costs are those that were measured for each depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from layerdial.audio.files import SAMPLE_RATE
from layerdial.evaluation.metrics import bootstrap_interval, score
from layerdial.runtime import Recognizer
from layerdial.runtime.controller import CostTable, worthwhile
from layerdial.text.normalise import normalise

Utterances = Sequence[tuple[np.ndarray, str]]
THRESHOLDS = np.round(1.0 - np.geomspace(0.001, 0.5, 40), 4)


class Measured:
    """Errors (D, U) and confidences (D, U) of every worthwhile depth on every utterance; milliseconds likewise."""

    def __init__(self, recognizer: Recognizer, table: CostTable, spoken: Utterances) -> None:
        self.depths = [step.depth for step in worthwhile(recognizer.ladder, recognizer.n_blocks)]
        heard = [[recognizer.transcribe(samples, depth=depth) for samples, _ in spoken] for depth in self.depths]
        pairs = [[(text, normalise(one.text)) for (_, text), one in zip(spoken, row, strict=True)] for row in heard]
        self.errors_DU = np.array([[count.errors for count in score(row)] for row in pairs])
        self.words_U = np.array([len(text.split()) for _, text in spoken])
        self.sure_DU = np.array([[min(c.confidence or 1.0 for c in one.chunks) for one in row] for row in heard])
        seconds = [len(samples) / SAMPLE_RATE for samples, _ in spoken]
        self.features_U = np.array([table.features(s) for s in seconds])
        self.network_DU = np.array([[table.network(depth, s) for s in seconds] for depth in self.depths])

    def fixed(self, depth: int) -> tuple[float, np.ndarray]:
        """Mean milliseconds, and errors of each utterance."""
        return float((self.features_U + self.network_DU[depth]).mean()), self.errors_DU[depth]

    def staged(self, shallow: int, deep: int, threshold: float) -> tuple[float, np.ndarray]:
        again_U = self.sure_DU[shallow] < threshold
        cost_U = self.features_U + self.network_DU[shallow] + again_U * self.network_DU[deep]
        return float(cost_U.mean()), np.where(again_U, self.errors_DU[deep], self.errors_DU[shallow])


def policies(recognizer: Recognizer, table: CostTable, dev: Utterances, tests: Sequence[Utterances]) -> dict[str, Any]:
    """For each fixed depth, the staged policy of no greater cost with the fewest errors on dev; then both on test."""
    on_dev = Measured(recognizer, table, dev)
    on_test = Measured(recognizer, table, [one for test in tests for one in test])
    depths = range(len(on_dev.depths))
    rows = []
    for fixed in depths:
        budget, errors_U = on_dev.fixed(fixed)
        candidates = [
            (shallow, deep, float(threshold))
            for shallow in depths
            for deep in depths
            if shallow < deep
            for threshold in THRESHOLDS
            if on_dev.staged(shallow, deep, threshold)[0] <= budget
        ]
        row: dict[str, Any] = {"depth": on_dev.depths[fixed], "dev_errors": int(errors_U.sum())}
        cost, before_U = on_test.fixed(fixed)
        row |= {"test_errors": int(before_U.sum()), "words": int(on_test.words_U.sum()), "test_ms": round(cost, 3)}
        if candidates:
            best = min(candidates, key=lambda c: (on_dev.staged(*c)[1].sum(), on_dev.staged(*c)[0]))
            row |= {"staged": [on_dev.depths[best[0]], on_dev.depths[best[1]], best[2]]}
            row |= {"staged_dev_errors": int(on_dev.staged(*best)[1].sum())}
            cost, after_U = on_test.staged(*best)
            low, high = bootstrap_interval(list(after_U - before_U), list(on_test.words_U))
            row |= {"staged_test_errors": int(after_U.sum()), "staged_test_ms": round(cost, 3)}
            row |= {"difference_low": round(low, 4), "difference_high": round(high, 4)}
        rows.append(row)
    return {"rows": rows}
