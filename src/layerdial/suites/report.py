"""The report of a suite: report.md with its tables, and the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from layerdial.errors import UserError
from layerdial.evaluation.plots import draw_sweep
from layerdial.suites.suite import Suite
from layerdial.suites.tables import RATES, Results, change_tables, rates_table, targets_table
from layerdial.suites.times import time_report
from layerdial.utils.files import write_text
from layerdial.utils.rows import Row


def write_report(suite: Suite, rows: Sequence[Row], provenance: str) -> Path:
    """Write report.md and the pictures. Raises `UserError` if there is nothing to report yet."""
    if not rows:
        raise UserError(f"{suite.out / 'results.jsonl'} has no rows of this suite yet; run it without --report")
    parts = [f"# {suite.name}", f"Corpus {suite.corpus}. {provenance}"]
    for number, test in enumerate(suite.hearings):
        results = Results(suite, test, [row for row in rows if row["test"] == test])
        if results.rows:
            picture = "wer.png" if number == 0 else f"wer-{test}.png"
            _draw(results, suite.out / picture)
            parts += [f"## Test set {test}", f"![error rate against cost]({picture})"]
            parts += [rates_table(results), *change_tables(results), *targets_table(results)]
    parts += time_report(suite, {(row["name"], row["seed"]) for row in rows}, suite.out / "time.png")
    path = suite.out / "report.md"
    write_text(path, "\n\n".join(parts) + "\n")
    return path


def _draw(results: Results, path: Path) -> None:
    """Draw a line a method: the mean over seeds, and a band from the best to the worst seed."""
    metric = results.suite.metric
    points = []
    for method in results.methods:
        for depth in results.depths:
            rates = [row[metric] for row in results.cell(method, depth).values() if row[metric] is not None]
            costs = [row["macs_per_second"] for row in results.cell(method, depth).values()]
            if rates:
                point = {"method": method, "depth": depth, "wer": mean(rates), "wer_low": min(rates)}
                points.append(
                    point | {"wer_high": max(rates), "macs_per_second": None if None in costs else mean(costs)}
                )
    title = f"{results.suite.corpus}, {results.test}"
    draw_sweep(points, path, title, rate=RATES[metric], band="from the best to the worst seed")
