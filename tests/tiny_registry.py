"""A registry of one model, `english`, for tests: a file asks for it by `pytest_plugins = ["tiny_registry"]`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from layerdial.registry import download, entries, places
from layerdial.registry.entries import Entry, ModelFile, Rate, write_entries
from layerdial.utils.checksums import checksum
from tiny_server import Server, serving


def entry_of(folder: Path, source: str = "") -> Entry:
    """The entry `english` for the files of a folder, of which a model has three blocks."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    listed = tuple(ModelFile(file.name, file.stat().st_size, checksum(file)) for file in files)
    rates = (Rate(3, 10, 100), Rate(1, 30, 100))
    return Entry("english", "tones", "CC-BY-4.0", 3, "tones of the tests", rates, source, listed)


@pytest.fixture
def own_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty registry, no clone with models, and an empty cache: the folder in which they are."""
    monkeypatch.setattr(entries, "FILE", tmp_path / "known.json")
    monkeypatch.setattr(places, "clone_folder", lambda name: tmp_path / "clone" / "models" / name)
    monkeypatch.setattr(download, "_WAIT_S", 0.0)
    monkeypatch.setenv("LAYERDIAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LAYERDIAL_MODELS_URL", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    write_entries([])
    return tmp_path


@pytest.fixture
def published(own_registry: Path) -> Iterator[Server]:
    """A server that has a small folder `english`, which is in the registry; no model, but files."""
    folder = own_registry / "server" / "english"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"kind": "nothing"}')
    (folder / "encoder.onnx").write_bytes(bytes(range(256)) * 4000)
    with serving(own_registry / "server") as server:
        write_entries([entry_of(folder, f"{server.url}/english")])
        yield server


def publish(exported: Path, server: Server) -> None:
    """Put an exported model in the place of the files that a server has."""
    folder = server.folder / "english"
    for file in folder.iterdir():
        file.unlink()
    for file in exported.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    write_entries([replace(entry_of(folder), source=f"{server.url}/english")])
