"""A versioned JSON file: whatever is wrong with it is one line that names the file and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerdial.errors import UserError
from layerdial.utils.records import parsing, read_record, write_record

REMEDY = "make it again"


def read(file: Path, content: str) -> dict[str, object]:
    file.write_text(content)
    return read_record(file, REMEDY, kind="ladder", format=1)


def test_a_record_of_the_version_that_is_expected_is_read(tmp_path: Path) -> None:
    stored = read(tmp_path / "x.json", '{"format": 1, "kind": "ladder", "more": [2]}')
    assert stored == {"format": 1, "kind": "ladder", "more": [2]}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[1]", "is damaged (it holds no JSON object)"),
        ('{"format": 2, "kind": "ladder"}', "has format 2; this layerdial reads format 1"),
        ('{"format": 1, "kind": "profile"}', "has kind 'profile'; this layerdial reads kind 'ladder'"),
        ('{"format": 1}', "has kind None; this layerdial reads kind 'ladder'"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    with pytest.raises(UserError) as refused:
        read(tmp_path / "x.json", content)
    assert str(refused.value) == f"{tmp_path / 'x.json'} {problem}; {REMEDY}"


@pytest.mark.parametrize("error", [KeyError("a"), TypeError("b"), ValueError("c"), AttributeError("d"), UserError("e")])
def test_what_goes_wrong_while_a_record_is_taken_apart_names_the_file(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(UserError) as refused, parsing(tmp_path / "x.json", REMEDY):
        raise error
    said = str(refused.value)
    assert said.startswith(f"{tmp_path / 'x.json'} is damaged (") and said.endswith(f"; {REMEDY}")
    assert str(error) in said


def test_faults_of_the_package_are_not_called_damage(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), parsing(tmp_path / "x.json", REMEDY):
        raise ZeroDivisionError


def test_a_digit_that_was_changed_since_is_found(tmp_path: Path) -> None:
    file, record = tmp_path / "x.json", {"format": 1, "rows": [{"wer": 0.125, "ü": None}], "by": {3: [1e-9, 2]}}
    write_record(file, record)
    assert read_record(file, REMEDY, format=1) == {**record, "by": {"3": [1e-9, 2]}}
    file.write_text(file.read_text().replace("\n", " "))  # blanks do not count
    read_record(file, REMEDY)
    file.write_text(file.read_text().replace("0.125", "0.126"))
    with pytest.raises(UserError) as refused:
        read_record(file, REMEDY)
    assert "is damaged or was changed" in str(refused.value) and REMEDY in str(refused.value)
