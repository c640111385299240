"""Rows survive kills and full disks; tables and the picture show what the rows say."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from layerdial.errors import UserError
from layerdial.evaluation import plots as picture
from layerdial.evaluation.plots import draw_sweep
from layerdial.evaluation.tables import compare, compare_table, latest_rows, sweep_table
from layerdial.utils.rows import append_row, read_rows

PNG = b"\x89PNG\r\n\x1a\n"


def make_row(depth: int = 2, **changes: Any) -> dict[str, Any]:
    row = {"subset": "1" * depth + "0" * (4 - depth), "depth": depth, "wer": 0.25 / depth, "wer_low": 0.2 / depth}
    row |= {"wer_high": 0.3 / depth, "errors": 25, "words": 100, "cer": 0.1, "macs_per_second": 2e7 * depth}
    return row | {"parameters": 1_000_000 * depth, "latency_ms": 3.0 * depth, "rtf": 0.001 * depth} | changes


def printed(table: Table, width: int = 160) -> str:
    console = Console(width=width, file=StringIO(), color_system=None)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "new" / "sweep.jsonl"
    rows = [make_row(1), make_row(2, method="déjà vu")]
    assert read_rows(path) == []
    for row in rows:
        append_row(path, row)
    assert read_rows(path) == rows
    assert path.read_bytes().count(b"\n") == 2


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_row(path, {"a": float("nan"), "b": np.float32(0.5), "c": [float("inf"), np.int64(3)], "d": tmp_path})
    assert read_rows(path) == [{"a": None, "b": 0.5, "c": [None, 3], "d": str(tmp_path)}]


@pytest.mark.parametrize("size", [3, 70_000, 200_000])
def test_a_torn_last_line_is_left_out_and_the_next_row_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    path = tmp_path / "rows.jsonl"
    append_row(path, {"n": 1})
    with path.open("a") as file:
        file.write('{"n": "' + "2" * size)
    with caplog.at_level(logging.WARNING):
        assert read_rows(path) == [{"n": 1}]
    assert "torn" in caplog.text
    append_row(path, {"n": 3})
    assert read_rows(path) == [{"n": 1}, {"n": 3}]


def test_a_file_that_is_only_a_torn_line_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n"')
    append_row(path, {"n": 1})
    assert path.read_text() == '{"n": 1}\n'


def test_a_whole_row_without_its_line_break_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}')
    assert read_rows(path) == [{"n": 1}, {"n": 2}]
    append_row(path, {"n": 3})
    assert read_rows(path) == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_a_budget_is_shown_as_it_is_and_a_subset_as_a_picture() -> None:
    shown = printed(sweep_table([make_row(2), make_row(1, subset="1-of-10")], width=160))
    assert "██··" in shown and "1-of-10" in shown


def test_rows_of_several_writers_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with ThreadPoolExecutor(4) as writers:
        list(writers.map(lambda n: append_row(path, {"n": n}), range(200)))
    assert sorted(row["n"] for row in read_rows(path)) == list(range(200))


@pytest.mark.parametrize("line", ["WER 3.2", "[1, 2]"])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"n": 1}}\n{line}\n{{"n": 2}}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2: expected a JSON object"):
        read_rows(path)


def test_a_full_disk_is_one_clear_line() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    with pytest.raises(UserError, match="cannot write /dev/full: "):
        append_row(Path("/dev/full"), {"n": 1})


def test_a_place_that_is_no_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*sweep\.jsonl"):
        append_row(tmp_path / "file" / "sweep.jsonl", {"n": 1})


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


@pytest.mark.parametrize("wers", [(0.5, 0.25, 0.2), (1.0, 0.05, 0.02), (0.3, 0.0, 0.0), (0.0, 0.0, 0.0)])
def test_picture_is_drawn_whatever_the_spread(tmp_path: Path, wers: tuple[float, ...]) -> None:
    rows = [
        make_row(depth, method=method, wer=wer, wer_low=wer * 0.8, wer_high=wer * 1.2)
        for method in ("ld", "dld")
        for depth, wer in enumerate(wers, 1)
    ]
    draw_sweep(rows, tmp_path / "sweep.png", "digits")
    assert (tmp_path / "sweep.png").read_bytes().startswith(PNG)
    assert [file.name for file in tmp_path.iterdir()] == ["sweep.png"]


def test_picture_without_methods_macs_or_intervals(tmp_path: Path) -> None:
    bare = [{"subset": "10", "depth": 1, "wer": 0.5}, {"subset": "11", "depth": 2, "wer": 0.25, "macs_per_second": 1}]
    draw_sweep([*bare, {"subset": "11", "depth": 2, "wer": None}], tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("count", [7, 28])
def test_many_lines_look_different_and_all_their_names_are_in_the_picture(tmp_path: Path, count: int) -> None:
    figure, axes = picture.new_figure()
    styles = list(islice(picture.line_styles(), count))
    assert len({tuple(style.values()) for style in styles}) == count
    for number, style in enumerate(styles, 1):
        picture.draw_line(axes, [1, 2], [number, 2], [number, 2], [number, 2], label=f"method {number}", **style)
    picture.add_legend(axes, "95 % interval")
    picture.save_figure(figure, tmp_path / "sweep.png")
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [f"method {n}" for n in range(count, 0, -1)]
    box, (width, height) = legend.get_window_extent(), figure.get_size_inches() * figure.dpi
    assert 0 <= box.x0 < box.x1 <= width and 0 <= box.y0 < box.y1 <= height


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no row has a WER"):
        draw_sweep([], tmp_path / "sweep.png")
    assert list(tmp_path.iterdir()) == []


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
