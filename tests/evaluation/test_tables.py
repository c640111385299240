"""Tables of sweeps: errors with their intervals, and comparisons paired by utterance."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from layerdial.errors import UserError
from layerdial.evaluation.tables import compare, compare_table, latest_rows, sweep_table
from layerdial.utils.rows import append_row
from tiny_evaluation import make_row


def printed(table: Table, width: int = 160) -> str:
    console = Console(width=width, file=StringIO(), color_system=None)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_budget_is_shown_as_it_is_and_a_subset_as_a_picture() -> None:
    shown = printed(sweep_table([make_row(2), make_row(1, subset="1-of-10")], width=160))
    assert "██··" in shown and "1-of-10" in shown


def test_table_shows_errors_words_and_interval() -> None:
    text = printed(sweep_table([make_row(1), make_row(4)], width=160))
    assert "25.00  20.00-30.00" in text
    assert "25/100" in text
    assert "█···" in text
    assert "method" not in text


def test_table_fits_80_columns() -> None:
    rows = [make_row(2, method="reference", errors=12345, words=54321, subset="1" * 12)]
    text = printed(sweep_table(rows, width=80), width=80)
    assert "…" not in text
    assert "12345/54321" in text
    assert "CER" not in text


def test_table_of_a_row_without_costs() -> None:
    row = make_row(2, macs_per_second=None, parameters=None, wer_low=None, wer_high=None, wer=None)
    assert "25/100" in printed(sweep_table([row], width=160))


def write_utterances(folder: Path, name: str, errors: list[int]) -> str:
    for number, count in enumerate(errors):
        append_row(folder / name, {"id": f"u{number}", "errors": count, "words": 10})
    return name


def test_comparison_pairs_utterances_by_id(tmp_path: Path) -> None:
    ld = write_utterances(tmp_path, "ld.jsonl", [2, 4] * 50)
    dld = write_utterances(tmp_path, "dld.jsonl", [1, 4] * 50)
    rows = [make_row(2, method="ld", utterances_file=ld), make_row(2, method="dld", utterances_file=dld)]
    rows += [make_row(3, method="dld", utterances_file=dld), make_row(2, method="none")]
    ((base, other, change),) = compare(rows, "ld", tmp_path)
    assert (base["method"], other["method"]) == ("ld", "dld")
    assert change.relative == pytest.approx(-1 / 6)
    assert change.low < -1 / 6 < change.high < 0
    assert "-16.7" in printed(compare_table(rows, "ld", tmp_path))


def test_comparison_refuses_other_utterances_and_unknown_methods(tmp_path: Path) -> None:
    ld = write_utterances(tmp_path, "ld.jsonl", [2, 4])
    dld = write_utterances(tmp_path, "dld.jsonl", [2, 4, 1])
    rows = [make_row(2, method="ld", utterances_file=ld), make_row(2, method="dld", utterances_file=dld)]
    with pytest.raises(UserError, match="u2 is only on one"):
        compare(rows, "ld", tmp_path)
    with pytest.raises(UserError, match="no row has the method 'static'; methods found: dld, ld"):
        compare(rows, "static", tmp_path)


def test_a_model_trained_again_replaces_all_its_rows_even_where_its_ladder_took_other_blocks() -> None:
    line = {"method": "dld", "select": "ladder", "cuts": "test"}
    before = [line | {"fingerprint": "old", "subset": subset} for subset in ("10", "11")]
    after = [line | {"fingerprint": "new", "subset": subset} for subset in ("01", "11")]
    other = {"method": "ld", "select": "ladder", "cuts": "test", "fingerprint": "old", "subset": "10"}
    assert latest_rows([*before, other, *after]) == [other, *after]
