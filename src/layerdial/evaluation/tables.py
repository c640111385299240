"""Tables for the terminal: a sweep, and methods compared utterance by utterance."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from layerdial.errors import UserError
from layerdial.evaluation.metrics import Change, paired_change, total
from layerdial.utils.rows import Row, read_rows

if TYPE_CHECKING:
    from rich.table import Table

    from layerdial.evaluation.tuning import TunedDepth

Counts = Mapping[str, tuple[int, int]]  # errors and words, or characters, by utterance id


def latest_rows(rows: Iterable[Row]) -> list[Row]:
    """Return the last row of each subset, of the newest weights only: a model trained again replaces itself.

    Newest is what was measured last of the same method, selection rule and cuts.
    """
    rows = list(rows)
    newest = {_line_of(row): row.get("fingerprint") for row in rows}
    current = [row for row in rows if row.get("fingerprint") == newest[_line_of(row)]]
    return list({(*_line_of(row), row.get("subset")): row for row in current}.values())


def _line_of(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("method", "select", "cuts", "normalizer", "search", "chunk_ms"))


def sweep_table(rows: Sequence[Mapping[str, Any]], title: str | None = None, width: int | None = None) -> Table:
    """Return a table of one line a row: blocks that ran, errors with their interval, costs.

    Under 120 characters of `width` (default: the terminal's) the columns that others imply are left out.
    """
    wide = (width or shutil.get_terminal_size().columns) >= 120
    labels = [name for name in _LABELS if any(row.get(name) not in (None, "") for row in rows)]
    columns = {heading: cell for heading, cell in _COLUMNS.items() if wide or heading not in _WIDE_ONLY}
    table = _table(title, [*labels, *columns], gap=2 if wide else 1)
    for row in rows:
        table.add_row(*(_label(row, name) for name in labels), *(cell(row) for cell in columns.values()))
    return table


def _label(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    return _LEFT_OUT.get(name, "") if value is None else str(value)


def _table(title: str | None, headings: Sequence[str], gap: int = 2) -> Table:
    from rich import box
    from rich.table import Table

    padding = (0, gap - 1, 0, 0)
    table = Table(title=title, header_style="bold", box=box.SIMPLE_HEAD, title_justify="left", padding=padding)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in _WORDS else "right", no_wrap=True)
    return table


def _show(value: float | None, factor: float, digits: int = 2) -> str:
    return "" if value is None else f"{value * factor:,.{digits}f}"


def _interval(row: Mapping[str, Any]) -> str:
    return "" if row.get("wer_low") is None else f"{_show(row['wer_low'], 100)}-{_show(row['wer_high'], 100)}"


def _drawn(subset: str) -> str:
    """Return a subset's key as a picture, without the size of its chunks; that of a budget, `6-of-12`, as it is."""
    subset = subset.partition("@")[0]
    return subset.replace("1", "█").replace("0", "·") if set(subset) <= {"0", "1"} else subset


_COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "depth": lambda row: str(row["depth"]),
    "blocks": lambda row: _drawn(str(row["subset"])),
    "WER %": lambda row: f"[bold]{_show(row.get('wer'), 100)}[/bold]",
    "95 %": _interval,
    "errors/\nwords": lambda row: f"{row['errors']}/{row['words']}",
    "CER %": lambda row: _show(row.get("cer"), 100),
    "M MACs/\nsecond": lambda row: _show(row.get("macs_per_second"), 1e-6, 0),
    "M par-\nameters": lambda row: _show(row.get("parameters"), 1e-6),
    "latency\nms": lambda row: _show(row.get("latency_ms"), 1, 1),
    "RTF": lambda row: _show(row.get("rtf"), 1, 4),
}
_LEFT_OUT = {"search": "greedy", "chunk_ms": "full"}  # what rows without the key mean, beside some that have it
_WIDE_ONLY = {"CER %", "M par-\nameters", "RTF"}
_WORDS = {"method", "select", "normalizer", "search", "blocks"}
_LABELS = ("method", "select", "normalizer", "search", "lm_weight", "word_bonus", "chunk_ms", "delay_ms", "delay_ms_95")


def tuned_table(rows: Sequence[TunedDepth]) -> Table:
    """Return a table of one line a depth: WER without and with a language model, and the weights that were chosen."""
    headings = ["depth", "greedy\nWER %", "errors/\nwords", "usual weights\nWER %", "errors"]
    headings += ["tuned\nWER %", "95 %", "errors", "change\n%", "95 % of it", "lm\nweight", "word\nbonus", "beams"]
    table = _table("without and with the language model; bold: the interval leaves out no change", headings)
    for row in rows:
        greedy, usual, tuned, (low, high) = total(row.greedy), total(row.usual), total(row.tuned), row.interval
        change = f"{row.change.relative * 100:+.1f}"
        cells = [str(row.depth), _show(greedy.rate, 100), f"{greedy.errors}/{greedy.words}"]
        cells += [_show(usual.rate, 100), str(usual.errors), _show(tuned.rate, 100)]
        cells += [f"{_show(low, 100)}-{_show(high, 100)}", str(tuned.errors)]
        cells += [f"[bold]{change}[/bold]" if row.change.is_clear else change]
        cells += [f"{row.change.low * 100:+.1f} to {row.change.high * 100:+.1f}"]
        table.add_row(*cells, f"{row.choice.lm_weight:g}", f"{row.choice.word_bonus:g}", str(row.choice.beams))
    return table


def compare_table(rows: Sequence[Mapping[str, Any]], baseline_method: str, folder: Path, samples: int = 1000) -> Table:
    """Return a table of WER changes against `baseline_method` at each depth, with paired bootstrap intervals.

    Rows are compared when depth, selection rule, cuts and normaliser agree and both have their utterance files under
    `folder`.
    """
    table = _table(
        f"WER against {baseline_method}, same utterances; bold: the interval leaves out no change",
        ["method", "select", "depth", f"{baseline_method} %", "WER %", "change %", "95 %"],
    )
    for base, row, change in compare(rows, baseline_method, folder, samples):
        shown = f"{change.relative * 100:+.1f}"
        table.add_row(
            str(row.get("method") or ""),
            str(row.get("select") or ""),
            str(row["depth"]),
            _show(base.get("wer"), 100),
            _show(row.get("wer"), 100),
            f"[bold]{shown}[/bold]" if change.is_clear else shown,
            f"{change.low * 100:+.1f} to {change.high * 100:+.1f}",
        )
    return table


def compare(
    rows: Sequence[Mapping[str, Any]], baseline_method: str, folder: Path, samples: int = 1000
) -> list[tuple[Mapping[str, Any], Mapping[str, Any], Change]]:
    """Return (baseline row, other row, change) of every pair that `compare_table` shows.

    Raises `UserError` where no row has the baseline method.
    """
    baselines = {_comparable(row): row for row in rows if row.get("method") == baseline_method}
    if not baselines:
        methods = sorted({str(row["method"]) for row in rows if row.get("method")})
        raise UserError(f"no row has the method {baseline_method!r}; methods found: {', '.join(methods) or 'none'}")
    found = []
    for row in rows:
        base = baselines.get(_comparable(row))
        if base is None or row.get("method") == baseline_method:
            continue
        files = [row.get("utterances_file") for row in (base, row)]
        before, after = (utterance_counts(folder / file) if file else {} for file in files)
        if before and after:
            found.append((base, row, change_of(before, after, samples)))
    return found


def _comparable(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["depth"], *(row.get(name) for name in ("select", "cuts", "normalizer", "search", "chunk_ms"))


def utterance_counts(file: Path, metric: Literal["wer", "cer"] = "wer") -> Counts:
    """Return the counts in a file of utterances: errors and words, or for "cer" errors and characters."""
    errors, units = ("errors", "words") if metric == "wer" else ("char_errors", "chars")
    return {row["id"]: (row[errors], row[units]) for row in read_rows(file)}


def change_of(base: Counts, other: Counts, samples: int = 1000) -> Change:
    """Return the paired change of the same utterances' errors. Raises `UserError` for an utterance on one side only."""
    if base.keys() != other.keys():
        odd = sorted(base.keys() ^ other.keys())[0]
        raise UserError(f"a paired comparison needs the same utterances on both sides, but {odd} is only on one")
    ids = sorted(base)
    errors_a, words = [base[i][0] for i in ids], [base[i][1] for i in ids]
    return paired_change(errors_a, words, [other[i][0] for i in ids], samples)
