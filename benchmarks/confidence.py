"""What a measure of confidence is worth: the utterances of which a shallow depth is least sure, run again deeper.

    python benchmarks/confidence.py MODEL CUTS [--choose CUTS] [--depths N,N] [--utterances N] [--rows FILE]

MODEL is a CTC model, or Whisper exported. Of each measure: which part of the errors that the deeper run avoids is
avoided by running again 5, 10, 20 and 40 % of the audio (by chance: as much as is run again). Then, at equal mean
computation, the errors of the cascade and those of the cheapest mixture of fixed depths, with the interval of the
difference. Measure, share and threshold are chosen on the cuts of `--choose`, or else on the same ones. Computation is
millions of multiply-accumulates, as `layerdial sweep` counts them. "Going on": the deeper run of a CTC model begins
where the shallow one ended, which the runtime cannot do.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layerdial.data.manifest import cut_text, load_samples, open_cuts
from layerdial.evaluation.load import load_model
from layerdial.evaluation.metrics import bootstrap_interval, count_errors
from layerdial.ladder import depths_of
from layerdial.recognizer import collate_features
from layerdial.request import Request
from layerdial.runtime import Recognizer
from layerdial.text.ctc import BLANK, greedy_ctc
from layerdial.text.ctc_beams import CtcSearch, Scoring
from layerdial.text.normalise import normalise
from layerdial.text.token_decoding import decode_greedily

LONGEST = 30.0  # seconds of an utterance: longer ones are left out
SHARES = (0.05, 0.1, 0.2, 0.4)


@dataclass(frozen=True)
class Run:
    """An utterance at a depth: its text, its computation, and how sure each measure is (more is surer)."""

    text: str
    cost: float
    sure: dict[str, float]


def ctc_run(model: Any, samples: np.ndarray, depth: int, shallower: Run | None) -> Run:
    """Recognise an utterance; `shallower` is its run at half the depth, with which this one may disagree."""
    subset, seconds = model.subset(depth), len(samples) / 16000
    logp_TV = model.log_probs(collate_features([""], [model.features(samples)], [""], seconds), subset)[0]
    best_T = logp_TV.argmax(axis=-1)
    text = normalise(model.pieces.decode(greedy_ctc(best_T.tolist())))
    top_T, spoken_T = logp_TV.max(axis=-1), best_T != BLANK
    peaks = np.array(peaks_of(best_T, top_T))
    entropy_T = -(np.exp(logp_TV) * logp_TV).sum(axis=-1)
    second_T = np.partition(logp_TV, -2, axis=-1)[:, -2]
    search = CtcSearch(Scoring(model.pieces), 8)
    search.feed(logp_TV)
    sums = sorted((blank + rest for _, blank, rest in search._beams), reverse=True)
    sure = {
        "mean posterior (today's)": float(np.exp(top_T[spoken_T]).mean()) if spoken_T.any() else 1.0,
        "least sure token": float(peaks.min(initial=1.0)),
        "expected errors": float(np.log(np.maximum(peaks, 1e-9)).sum()),
        "entropy": -float(entropy_T.mean()),
        "entropy, summed": -float(entropy_T.sum()),
        "margin of tokens, least": float((top_T - second_T)[spoken_T].min(initial=99.0)),
        "share of the best of 8 beams": sums[0] / sum(sums),
    }
    if shallower is not None:
        sure["agreement with half the depth"] = -count_errors(shallower.text, text).errors + 1e-3 * sure["entropy"]
    return Run(text, model.cost(subset).macs_per_second * seconds / 1e6, sure)


def peaks_of(best_T: np.ndarray, top_T: np.ndarray) -> list[float]:
    """Return the largest posterior of each token that is written."""
    found, before = list[float](), BLANK
    for token, logp in zip(best_T.tolist(), top_T.tolist(), strict=True):
        if token not in (BLANK, before):
            found.append(math.exp(logp))
        elif token != BLANK:
            found[-1] = max(found[-1], math.exp(logp))
        before = token
    return found


class Watched:
    """A decoder that notes the entropy and the margin of each step."""

    def __init__(self, steps: Any) -> None:
        self._steps, self.entropy, self.margin = steps, list[float](), list[float]()

    def next(self, tokens_BU: Any) -> Any:
        logits = self._steps.next(tokens_BU)
        x = logits[0, -1].astype(np.float64)
        logp = x - (x.max() + math.log(np.exp(x - x.max()).sum()))
        self.entropy.append(float(-(np.exp(logp) * logp).sum()))
        two = np.partition(logp, -2)[-2:]
        self.margin.append(float(two[1] - two[0]))
        return logits


def whisper_run(model: Any, samples: np.ndarray, depth: int, shallower: Run | None) -> Run:
    decoding: Any = model.decoding.of(Request(depth, words=True), model.name)
    inputs, seconds, subset = model.features(samples), len(samples) / 16000, model.subset(depth)
    encoded = decoding.session.encode(inputs[None], np.array([len(inputs)]), subset, decoding.search.use)
    steps: Any = Watched(encoded.begin())
    written = decode_greedily(encoded, [seconds], decoding.rules, steps)[0]
    logps = np.array([*written.logps]) if written.logps else np.zeros(1)
    sure = {
        "mean posterior (today's)": math.exp(written.mean_logp),
        "least sure token": float(logps.min()),
        "expected errors": float(logps.sum()),
        "entropy": -float(np.mean(steps.entropy)),
        "entropy, summed": -float(np.sum(steps.entropy)),
        "margin of tokens, least": float(np.min(steps.margin)),
    }
    sure = {name: value - 1e6 * written.looped for name, value in sure.items()}
    text = normalise(decoding.tokenizer.decode(written.tokens))
    return Run(text, model.cost(subset).macs_per_second * seconds / 1e6, sure)


def has_decoder(model: Any) -> bool:
    return isinstance(model, Recognizer) and model.manifest.decoder is not None


class Measured:
    """Runs of every depth on every utterance, with their errors (D, U), words (U,) and computation (D, U)."""

    def __init__(self, model: Any, cuts: Path, depths: list[int], most: int | None) -> None:
        run = whisper_run if has_decoder(model) else ctc_run
        self.depths, self.runs = depths, list[list[Run]]()
        texts = list[str]()
        for cut in [cut for cut in open_cuts(cuts) if cut.duration <= LONGEST][:most]:
            samples = load_samples(cut)
            found = dict[int, Run]()
            for depth in depths:
                found[depth] = run(model, samples, depth, found.get(depth // 2))
            self.runs.append(list(found.values()))
            texts.append(normalise(cut_text(cut)))
        pairs = zip(texts, self.runs, strict=True)
        self.errors_DU = np.array([[count_errors(t, one.text).errors for one in row] for t, row in pairs]).T
        self.words_U = np.array([len(text.split()) for text in texts])
        self.cost_DU = np.array([[one.cost for one in row] for row in self.runs]).T

    def sure_U(self, depth: int, measure: str) -> np.ndarray:
        return np.array([row[self.depths.index(depth)].sure[measure] for row in self.runs])


def captured(m: Measured, shallow: int, deep: int, sure_U: np.ndarray) -> list[float]:
    """Return the part of the avoidable errors that is avoided by running again some shares of the audio."""
    s, d = m.depths.index(shallow), m.depths.index(deep)
    gain_U, order = m.errors_DU[s] - m.errors_DU[d], np.argsort(sure_U, kind="stable")
    cost_U = m.cost_DU[d][order]
    shares = np.cumsum(cost_U) / cost_U.sum()
    return [float(gain_U[order][: np.searchsorted(shares, share) + 1].sum() / gain_U.sum()) for share in SHARES]


def cheapest_mixture(m: Measured, cost: float) -> tuple[float, np.ndarray]:
    """Return the fewest expected errors of a random choice between two fixed depths of this mean cost, by utterance."""
    costs, found = m.cost_DU.mean(axis=1), list[tuple[float, np.ndarray]]()
    for low in range(len(costs)):
        for high in range(len(costs)):
            if costs[low] <= cost <= costs[high]:
                part = 0.0 if costs[high] == costs[low] else (cost - costs[low]) / (costs[high] - costs[low])
                errors_U = (1 - part) * m.errors_DU[low] + part * m.errors_DU[high]
                found.append((float(errors_U.sum()), errors_U))
    if not found:  # more than all blocks cost
        errors_U = m.errors_DU[int(np.argmax(costs))].astype(float)
        return float(errors_U.sum()), errors_U
    return min(found, key=lambda one: one[0])


def cascade(m: Measured, shallow: int, deep: int, again_U: np.ndarray, goes_on: bool) -> tuple[float, np.ndarray]:
    """Return mean cost and errors of each utterance. `goes_on`: the deeper run begins where the shallow one ended."""
    s, d = m.depths.index(shallow), m.depths.index(deep)
    more_U = m.cost_DU[d] - m.cost_DU[s] * goes_on
    return float((m.cost_DU[s] + again_U * more_U).mean()), np.where(again_U, m.errors_DU[d], m.errors_DU[s])


def compared(test: Measured, dev: Measured, pair: tuple[int, int], measure: str, share: float, goes_on: bool) -> dict:  # type: ignore[type-arg]
    shallow, deep = pair
    threshold = np.quantile(dev.sure_U(shallow, measure), share)
    cost, errors_U = cascade(test, shallow, deep, test.sure_U(shallow, measure) < threshold, goes_on)
    fixed, fixed_U = cheapest_mixture(test, cost)
    low, high = difference_interval(errors_U - fixed_U, test.words_U)
    return {"cost": cost, "errors": int(errors_U.sum()), "fixed": fixed, "low": low, "high": high}


def difference_interval(change_U: np.ndarray, words_U: np.ndarray) -> tuple[float, float]:
    low, high = bootstrap_interval([round(1000 * value) for value in change_U], list(words_U))
    return low / 1000, high / 1000


def report(test: Measured, dev: Measured, pairs: list[tuple[int, int]], ways: Sequence[bool]) -> list[dict[str, Any]]:
    words, rows = int(test.words_U.sum()), list[dict[str, Any]]()
    for i, depth in enumerate(test.depths):
        errors = int(test.errors_DU[i].sum())
        print(f"depth {depth}: WER {errors / words:.2%} ({errors}/{words}), cost {test.cost_DU[i].mean():.1f}")
    for shallow, deep in pairs:
        print(f"\n{shallow}, then {deep} where not sure; part of the avoidable errors avoided, for {SHARES} run again")
        for measure in test.runs[0][test.depths.index(shallow)].sure:
            parts = captured(test, shallow, deep, test.sure_U(shallow, measure))
            print(f"  {measure:32s}", *(f"{part:6.0%}" for part in parts))
            for goes_on, share in itertools.product(ways, SHARES):
                row: dict[str, Any] = {"pair": [shallow, deep], "measure": measure, "share": share, "goes_on": goes_on}
                row["chosen_by"] = compared(dev, dev, (shallow, deep), measure, share, goes_on)
                rows.append(row | compared(test, dev, (shallow, deep), measure, share, goes_on))
    for goes_on in ways:
        print(f"\nchosen for each pair, at equal computation, {'going on' if goes_on else 'from the beginning'}")
        for pair in pairs:
            same = [row for row in rows if row["pair"] == list(pair) and row["goes_on"] == goes_on]
            row = min(same, key=lambda row: row["chosen_by"]["errors"] - row["chosen_by"]["fixed"])
            print(
                f"  {pair[0]} then {pair[1]}, {row['measure']}, {row['share']:.0%} again: {row['errors']}",
                end=" errors, ",
            )
            print(f"fixed depths {row['fixed']:.1f}, cost {row['cost']:.1f}", end=", difference ")
            print(f"{row['low']:+.2%} to {row['high']:+.2%} WER")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("cuts", type=Path)
    parser.add_argument("--choose", type=Path)
    parser.add_argument("--depths")
    parser.add_argument("--utterances", type=int)
    parser.add_argument("--rows", type=Path)
    options = parser.parse_args()
    model: Any = load_model(options.model, threads=1)
    depths = list(depths_of(model.ladder, model.n_blocks))
    if options.depths:
        depths = [int(depth) for depth in options.depths.split(",")]
    test = Measured(model, options.cuts, depths, options.utterances)
    dev = Measured(model, options.choose, depths, options.utterances) if options.choose else test
    pairs = [(a, b) for a in depths for b in depths if a < b]
    ways = (False,) if has_decoder(model) else (False, True)
    rows = report(test, dev, pairs, ways)
    if options.rows:
        options.rows.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
