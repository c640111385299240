"""Manifests and rows as they come: what is read, what is left, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layerdial.bulk.manifest import Work, read_tasks
from layerdial.errors import UserError
from layerdial.utils.rows import append_row


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def left(manifest: Path, out: Path) -> list[str]:
    return [task.file for task in Work(manifest, out, "m").tasks()]


def test_files_without_a_row_are_left(tmp_path: Path) -> None:
    manifest = write(tmp_path / "in", {"file": "a"}, {"file": "b"}, {"file": "a", "id": 7}, {"file": "c", "id": "7x"})
    out = write(tmp_path / "out", {"file": "b", "model": "m"}, {"id": 7, "file": "a", "model": "m"})
    work = Work(manifest, out, "m")
    assert (work.total, work.done, work.left, work.foreign) == (4, 2, 2, 0)
    assert left(manifest, out) == ["a", "c"]


def test_a_torn_row_is_done_again_and_repaired(tmp_path: Path) -> None:
    manifest, out = write(tmp_path / "in", {"file": "a"}, {"file": "b"}), tmp_path / "out"
    out.write_text('{"file": "a", "model": "m"}\n{"file": "b", "mo')
    assert left(manifest, out) == ["b"]
    append_row(out, {"file": "b", "model": "m"})
    assert left(manifest, out) == [] and len(out.read_text().splitlines()) == 2


def test_rows_of_other_files_stay_and_are_counted(tmp_path: Path) -> None:
    out = write(tmp_path / "out", {"file": "z", "model": "m"})
    assert Work(write(tmp_path / "in", {"file": "a"}), out, "m").foreign == 1


def test_extra_fields_and_empty_lines_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "in").write_text('{"file": "a", "text": "x", "duration": 2}\n\n  \n{"file": "b"}')
    assert [(task.number, task.file, task.duration) for task in read_tasks(tmp_path / "in")] == [
        (0, "a", 2.0),
        (1, "b", None),
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1], "line 2: expected a JSON object"),
        ({"id": 1}, "line 2: file is missing"),
        ({"file": 3}, "line 2: file is 3"),
        ({"file": "b", "id": [1]}, "line 2: id is"),
        ({"file": "b", "id": True}, "line 2: id is True"),
        ({"file": "b", "duration": -1}, "line 2: duration is -1"),
        ({"file": "a"}, "more than one row for file a"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(tmp_path: Path, row: Any, reason: str) -> None:
    manifest = write(tmp_path / "in", {"file": "a"}, row)
    with pytest.raises(UserError, match=reason):
        Work(manifest, tmp_path / "out", "m")


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"file": "a", "model": "other"}], "rows of the model other, not m"),
        ([{"text": "x"}], "none of a bulk transcription"),
        ([{"file": "a", "model": "m"}] * 2, "more than one row for file a"),
    ],
)
def test_rows_of_something_else_are_refused(tmp_path: Path, rows: list[Any], reason: str) -> None:
    manifest, out = write(tmp_path / "in", {"file": "a"}), write(tmp_path / "out", *rows)
    with pytest.raises(UserError, match=reason):
        Work(manifest, out, "m")


def test_nothing_to_do_and_no_manifest_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Work(tmp_path / "in", tmp_path / "out", "m")
    with pytest.raises(UserError, match="has no rows"):
        Work(write(tmp_path / "in"), tmp_path / "out", "m")
