"""The tables of a report, in Markdown: error rates, and how they change, with paired bootstrap intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean

from layerdial.errors import UserError
from layerdial.evaluation.metrics import Change
from layerdial.evaluation.tables import Counts, change_of, utterance_counts
from layerdial.suites.suite import Metric, Suite
from layerdial.utils.rows import Row

RATES = {"wer": "word error rate", "cer": "character error rate"}


@dataclass(frozen=True)
class Results:
    """The rows of one test set, by method and depth, one a seed."""

    suite: Suite
    test: str
    rows: Sequence[Row]

    def cell(self, method: str, depth: int) -> dict[int, Row]:
        """Return the rows of a method at a depth, by seed."""
        return {row["seed"]: row for row in self.rows if row["method"] == method and row["depth"] == depth}

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(row["method"] for row in self.rows))

    @property
    def depths(self) -> list[int]:
        return sorted({row["depth"] for row in self.rows})

    @property
    def baselines(self) -> list[str]:
        return [name for name in self.suite.baselines if name in self.methods]

    @property
    def n_blocks(self) -> int:
        """The number of blocks of the largest network."""
        blocks: int = max(row["n_blocks"] if "n_blocks" in row else row["depth"] for row in self.rows)
        return blocks


def table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table: words to the left, figures to the right."""
    rows = [list(headings), ["---", *["---:"] * (len(headings) - 1)], *map(list, lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def rates_table(results: Results) -> str:
    """Return a table of method by depth: the mean over seeds, the lowest and the highest, the number of seeds."""
    metric = results.suite.metric

    def cell(method: str, depth: int) -> str:
        rates = [100 * row[metric] for row in results.cell(method, depth).values() if row[metric] is not None]
        if not rates:
            return ""
        spread = f" ({min(rates):.2f}-{max(rates):.2f})" if len(rates) > 1 else ""
        return f"{mean(rates):.2f}{spread}"

    def seeds(method: str) -> str:
        counts = {len(results.cell(method, depth)) for depth in results.depths} - {0}
        return "-".join(str(count) for count in sorted({min(counts), max(counts)}))

    lines = [[method, seeds(method), *(cell(method, depth) for depth in results.depths)] for method in results.methods]
    # one figure, unless audio could not be read when some of the rows were made
    words = sorted({row["words" if metric == "wer" else "chars"] for row in results.rows})
    unit = "words" if metric == "wer" else "characters"
    counts = " or ".join(f"{number:,}" for number in words)
    return f"{metric.upper()} in %, mean over seeds (lowest-highest); {counts} {unit}:\n\n" + table(
        ["blocks", "seeds", *map(str, results.depths)], lines
    )


def change_tables(results: Results) -> list[str]:
    """Return a table for each baseline: the change of every method against it at every depth."""
    found = []
    for baseline in results.baselines:
        lines = []
        for method in results.methods:
            cells = [change_cell(results, method, baseline, [depth]) for depth in results.depths]
            if method != baseline and any(cells):
                lines.append([method, *cells])
        if lines:
            text = f"Change against {baseline} in %, paired over the same utterances and seeds (95 % interval):"
            found.append(f"{text}\n\n" + table(["blocks", *map(str, results.depths)], lines))
    return found


def targets_table(results: Results) -> list[str]:
    """Compare the methods that the suite has targets for: high dropping, each depth between, and all blocks."""
    methods = [name for name in results.suite.targets if name in results.methods]
    n_blocks = results.n_blocks
    high = [depth for depth in results.depths if depth <= n_blocks / 4]
    between = [depth for depth in results.depths if n_blocks / 4 < depth < n_blocks]
    groups = [group for group in (high, *([depth] for depth in between), [n_blocks]) if group]
    lines = []
    for method in methods:
        for baseline in results.baselines:
            cells = [change_cell(results, method, baseline, group) for group in groups]
            if method != baseline and any(cells):
                lines.append([f"{method} against {baseline}", *cells])
    if not lines:
        return []
    names = [f"high dropping ({', '.join(map(str, high))})"] if high else []
    names += [*map(str, between), f"none ({n_blocks})"]
    return [
        "High dropping is a quarter of the blocks or fewer, its errors summed over depths:\n\n"
        + table(["", *names], lines)
    ]


# --------------------------------------------------------------------------------------------------------- changes


def change_cell(results: Results, method: str, baseline: str, depths: Sequence[int]) -> str:
    """Return the change in %, its interval, and the number of seeds if not all; empty without common rows."""
    found = change(results, method, baseline, depths)
    if found is None:
        return ""
    value, seeds = found
    few = "" if seeds == len(results.suite.seeds) else f", {seeds} seed{'s' if seeds > 1 else ''}"
    shown = f"{100 * value.relative:+.1f} ({100 * value.low:+.1f} to {100 * value.high:+.1f}{few})"
    return f"**{shown}**" if value.is_clear else shown


def change(results: Results, method: str, baseline: str, depths: Sequence[int]) -> tuple[Change, int] | None:
    """Return the paired change of errors summed over depths and common seeds, and the number of seeds, or None.

    Only seeds that both have at all of the depths count. Utterances are drawn again, each with all its seeds. Raises
    `UserError` where both were tested on different utterances.
    """
    pairs = [(results.cell(baseline, depth), results.cell(method, depth)) for depth in depths]
    seeds = set.intersection(*(set(base) & set(other) for base, other in pairs))
    if not seeds:
        return None
    before = _summed(results, [base[seed] for base, _ in pairs for seed in sorted(seeds)])
    after = _summed(results, [other[seed] for _, other in pairs for seed in sorted(seeds)])
    if before.keys() != after.keys():
        raise UserError(
            f"{method} and {baseline} were tested on other utterances of {results.test}; remove one with --fresh"
        )
    return change_of(before, after), len(seeds)


def _summed(results: Results, rows: Sequence[Row]) -> dict[str, tuple[int, int]]:
    """Return the errors and words (or characters) of each utterance, summed over rows."""
    total: dict[str, tuple[int, int]] = {}
    for row in rows:
        counts = _utterances(results.suite.out / row["utterances_file"], results.suite.metric)
        for id, (errors, words) in counts.items():
            before = total.get(id, (0, 0))
            total[id] = before[0] + errors, before[1] + words
    return total


@cache
def _utterances(file: Path, metric: Metric) -> Counts:
    if not file.is_file():
        raise UserError(
            f"{file} is missing, the errors of each utterance, of which intervals are made; bring it back, or test "
            "again with --fresh"
        )
    return utterance_counts(file, metric)
