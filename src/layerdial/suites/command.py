"""`layerdial bench`: run what is left, report failures, write the report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from layerdial.suites.plan import choose, plan
from layerdial.suites.report import write_report
from layerdial.suites.rows import RESULTS, copy_rows, current_rows
from layerdial.suites.run import run_suite
from layerdial.suites.suite import Suite, load_suite
from layerdial.suites.training_record import Trained
from layerdial.utils.records import parsing, read_record
from layerdial.utils.rows import Row
from layerdial.utils.workers import Failure


def run_command(
    file: Path,
    *,
    parallel: int | None = None,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    report_only: bool = False,
    fresh: Sequence[str] = (),
    results: Path | None = None,
    overrides: Sequence[str] = (),
    ray: bool = False,
) -> int:
    """Run a suite and write its report.

    Returns the exit code: 0 when all is done, 2 when only the user's input made jobs fail, else 1.
    """
    suite = load_suite(file, overrides)
    runs = plan(suite)
    chosen = choose(suite, runs, only, seeds)
    failures = [] if report_only else run_suite(suite, runs, chosen, parallel, fresh, ray)
    try:
        rows = current_rows(suite, runs)
        if rows or not failures:
            print(f"report:  {write_report(suite, rows, provenance(suite, rows))}")
            print(f"rows:    {suite.out / RESULTS} ({len(rows)} of {_rows_in_all(suite)})")
        if results is not None:
            copy_rows(rows, results)
            print(f"copied:  {results}")
    finally:  # failures are printed last, and also where no report can be drawn
        code = _tell(failures)
    return code


def provenance(suite: Suite, rows: Sequence[Row]) -> str:
    """Return one line: the commit, the machines of the training runs, and their hours."""
    seconds: dict[str, float] = {}  # each training once, also those of references and of continued models
    places: set[str] = set()
    for name, seed in {(row["name"], row["seed"]) for row in rows}:
        folder = suite.folder(name, seed)
        trained = Trained.load(folder)
        seconds |= trained.seconds_of if trained else {}
        places |= {_place(file) for file in (*folder.glob("meta.json"), *folder.glob("round-*/meta.json"))}
    commits = ", ".join(sorted({str(row["commit"]) for row in rows}))
    where = " and ".join(sorted(places)) or "machine unknown"
    return f"Code {commits}; {where}; {sum(seconds.values()) / 3600:.1f} hours of training."


def _place(file: Path) -> str:
    """Return the machine and the versions that a training run recorded."""
    remedy = "train it again with --fresh"
    meta = read_record(file, remedy)
    with parsing(file, remedy):
        device = "CPU" if meta["device"] == "cpu" else meta["device"]
        return f"{meta['machine']} {device}, Python {meta['python']}, torch {meta['torch']}"


def _rows_in_all(suite: Suite) -> int:
    return sum(len(suite.seeds_of(n)) * len(suite.depths_of(n)) * len(suite.hearings_of(n)) for n in suite.methods)


def _tell(failures: Sequence[Failure]) -> int:
    for failure in failures:
        print(f"layerdial: {failure.job.name}: {' '.join(failure.message.split())}", file=sys.stderr)
    if not failures:
        return 0
    own = [failure for failure in failures if not failure.left_out]
    return 2 if all(failure.users_mistake for failure in own) else 1
