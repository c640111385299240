"""The registry is read strictly, and agrees with the models of the clone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layerdial.errors import UserError
from layerdial.registry import entries
from layerdial.registry.entries import Entry, read_entries, write_entries
from layerdial.registry.places import clone_folder
from layerdial.runtime.manifest import Manifest
from layerdial.utils.checksums import checksum
from tiny_registry import entry_of
from tiny_runtime import change

pytest_plugins = ["tiny_registry"]


@pytest.fixture
def entry(own_registry: Path) -> Entry:
    folder = own_registry / "model"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    write_entries([entry_of(folder, "https://example.org/english")])
    return read_entries()["english"]


def test_an_entry_is_read_as_it_was_written(entry: Entry) -> None:
    assert [file.name for file in entry.files] == ["manifest.json"] and entry.size == 2
    assert [(rate.depth, rate.wer) for rate in entry.rates] == [(3, 0.1), (1, 0.3)]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"colour": "red"}, "colour"),
        ({"licence": ...}, "licence"),
        ({"name": "../english"}, "name is '../english'"),
        ({"source": "file:///etc"}, "source is 'file:///etc'"),
        ({"n_blocks": "3"}, "n_blocks is '3'"),
        ({"n_blocks": 2}, "a rate is of a depth above 2"),
        ({"files": []}, "expected manifest.json"),
        ({"files": [{"name": "../x", "size": 1, "sha256": "0" * 64}]}, "a file's name is '../x'"),
        ({"files": [{"name": ".bashrc", "size": 1, "sha256": "0" * 64}]}, "a file's name is '.bashrc'"),
        ({"files": [{"name": "manifest.json", "size": 1e3, "sha256": "0" * 64}]}, "size is 1000.0"),
        ({"files": [{"name": "manifest.json", "size": 1, "sha256": "0"}]}, "sha256 is '0'"),
        ({"rates": [{"depth": 1, "errors": -1, "words": 5}]}, "errors is -1"),
    ],
    ids=str,
)
def test_an_entry_that_says_something_else_is_refused(entry: Entry, changes: dict[str, Any], problem: str) -> None:
    stored = json.loads(entries.FILE.read_text())
    model = {key: value for key, value in (stored["models"][0] | changes).items() if value is not ...}
    change(entries.FILE, models=[model])
    with pytest.raises(UserError, match=r"known\.json is damaged") as refused:
        read_entries()
    assert problem in str(refused.value) and "\n" not in str(refused.value)


def test_a_registry_that_was_changed_or_is_newer_is_refused(entry: Entry) -> None:
    text = entries.FILE.read_text()
    entries.FILE.write_text(text.replace("tones of", "bones of"))
    with pytest.raises(UserError, match="is damaged or was changed"):
        read_entries()
    entries.FILE.write_text(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(UserError, match="has format 2; this layerdial reads format 1"):
        read_entries()
    change(entries.FILE, format=1, more=1)
    with pytest.raises(UserError, match="unknown key more"):
        read_entries()


def test_the_registry_of_this_version_can_be_read() -> None:
    assert all(name == entry.name for name, entry in read_entries().items())


@pytest.mark.parametrize("entry", read_entries().values(), ids=lambda entry: entry.name)
def test_a_model_in_the_clone_is_the_one_of_the_registry(entry: Entry) -> None:
    folder = clone_folder(entry.name)
    if not folder.is_dir():
        pytest.skip(f"this clone has no {folder}")
    assert {file.name: (file.size, file.sha256) for file in entry.files} == {
        name: ((folder / name).stat().st_size, checksum(folder / name)) for name in (file.name for file in entry.files)
    }
    manifest = Manifest.load(folder)
    assert (manifest.n_blocks, manifest.licence) == (entry.n_blocks, entry.licence)
