"""Rows of JSON lines: whole or not there, whoever writes them and whenever it ends."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from layerdial.errors import UserError
from layerdial.utils.rows import append_row, read_rows
from tiny_evaluation import make_row


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
