"""The rows of a suite: those that it needs, those that it has, and those of an earlier version of it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from layerdial.suites.suite import Origin, RunKey, Suite
from layerdial.utils.files import write_text
from layerdial.utils.rows import Row, append_row, read_rows

RESULTS = "results.jsonl"


def labels(suite: Suite, run: RunKey, origin: Origin, test: str, depth: int) -> Row:
    """Return the entries of a row that are known before anything is measured."""
    name, seed = run
    known = {
        "corpus": suite.corpus,
        "suite": suite.name,
        "method": suite.label(name),
        "name": name,
        "seed": seed,
        "test": test,
        "depth": depth,
        "select": suite.select_of(name),
        "tested_commit": origin.commit,
        "asked": origin.asked_digest,
        "test_contents": origin.tests[suite.hearings[test].test],
    }
    if (chunk_ms := suite.hearings[test].chunk_ms) is not None:
        known["chunk_ms"] = chunk_ms
    return known if suite.normalizers == ("basic",) else known | {"normalizers": ",".join(suite.normalizers)}


def measured_for(row: Mapping[str, Any], weights: bool = True) -> tuple[Any, ...]:
    """Return the values that identify a measurement: one with the same values is not repeated."""
    keys = ["name", "seed", "test", "depth", "select", "asked", "test_contents", "normalizers"]
    return tuple(row.get(key) for key in [*keys, "fingerprint"][: None if weights else -1])


def all_rows(suite: Suite) -> list[Row]:
    """Return every row of results.jsonl, also old ones."""
    return read_rows(suite.out / RESULTS)


def current_rows(suite: Suite, runs: Mapping[RunKey, Origin]) -> list[Row]:
    """Return the rows of the suite as it is now: the newest of each, entries in the suite's order."""
    newest = {measured_for(row, weights=False): row for row in all_rows(suite)}
    wanted = [row for name in suite.methods for row in _wanted(suite, name, runs)]
    found = [(row, newest.get(measured_for(row, weights=False))) for row in wanted]
    return [{**there, "method": row["method"]} for row, there in found if there is not None]


def missing_rows(suite: Suite, run: RunKey, origin: Origin, rows: Iterable[Row]) -> bool:
    """Return whether a run lacks rows among `rows`, measured with the weights in its folder if there are any."""
    weights = _weights(suite.model(*run))
    there = {measured_for(row, weights=False) for row in rows if weights in (None, row.get("fingerprint"))}
    return any(measured_for(row, weights=False) not in there for row in _wanted(suite, run[0], {run: origin}))


def _wanted(suite: Suite, name: str, runs: Mapping[RunKey, Origin]) -> Iterator[Row]:
    for run, origin in runs.items():
        if run[0] == name:
            for test in suite.hearings_of(name):
                for depth in suite.depths_of(name):
                    yield labels(suite, run, origin, test, depth)


def gather_rows(suite: Suite, run: RunKey) -> None:
    """Append the rows that a worker made to results.jsonl, each once."""
    known = {measured_for(row) for row in all_rows(suite)}
    for row in read_rows(suite.folder(*run) / "rows.jsonl"):
        if measured_for(row) not in known:
            append_row(suite.out / RESULTS, row)


def forget_rows(suite: Suite, names: Collection[str]) -> None:
    """Remove the rows of some entries from results.jsonl."""
    if (suite.out / RESULTS).is_file():
        _write(suite.out / RESULTS, (row for row in all_rows(suite) if row["name"] not in names))


def copy_rows(rows: Iterable[Row], file: Path) -> None:
    """Write rows as a repository keeps them: without the names of files that are not there."""
    _write(file, ({key: value for key, value in row.items() if key != "utterances_file"} for row in rows))


def _write(file: Path, rows: Iterable[Row]) -> None:
    write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _weights(model: Path) -> str | None:
    """Return the fingerprint of a model, or None where there is none."""
    from layerdial.models.checkpoint import fingerprint

    return fingerprint(model) if (model / "config.json").is_file() else None
