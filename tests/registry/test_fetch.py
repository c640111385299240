"""A model is fetched whole or not at all, from a real server with the faults that servers and networks have."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import PathDistribution
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from layerdial import load_model
from layerdial.errors import UserError
from layerdial.registry import places
from layerdial.registry.entries import read_entries, write_entries
from layerdial.registry.fetch import fetch
from layerdial.registry.find import model_folder
from layerdial.runtime import Recognizer
from tiny_registry import entry_of, publish
from tiny_runtime import SAMPLES, TEXT
from tiny_server import Server

pytest_plugins = ["tiny_export", "tiny_registry"]

SIZE = 256 * 4000  # of encoder.onnx


def fetched() -> Path:
    return fetch(read_entries()["english"])


def refusal() -> str:
    """The line that a fetch ends with."""
    with pytest.raises(UserError) as refused:
        fetched()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def starts(server: Server) -> list[str | None]:
    """From where on the large file was asked for."""
    return [wanted for path, wanted in server.asked if path.endswith("encoder.onnx")]


def test_a_fetched_model_is_what_the_server_has_and_is_not_fetched_again(published: Server, own_registry: Path) -> None:
    folder = fetched()
    assert folder.parent == own_registry / "cache" / "models"
    assert contents(folder) == contents(published.folder / "english")
    asked = len(published.asked)
    assert fetched() == folder and len(published.asked) == asked


def test_a_name_is_a_model_wherever_a_runtime_model_is_taken(published: Server, exported: Path) -> None:
    publish(exported, published)
    assert Recognizer("english", threads=1).transcribe(SAMPLES).text == TEXT
    assert load_model("english").transcribe(SAMPLES, depth=3).text == TEXT


def test_a_connection_that_breaks_is_made_again_where_it_broke(published: Server) -> None:
    published.cuts = [SIZE, 100_000, 250_000]  # the first answer is the manifest
    assert contents(fetched()) == contents(published.folder / "english")
    assert starts(published) == [None, "bytes=100000-", "bytes=350000-"]


def test_a_fetch_that_was_interrupted_goes_on(published: Server) -> None:
    published.cuts = [SIZE, 100_000, 0]
    said = refusal()
    assert "the connection broke at byte 100,000" in said and "0.1 MB that arrived are kept" in said
    assert said.endswith("with a network run: layerdial models fetch english")
    published.asked.clear()
    assert contents(fetched()) == contents(published.folder / "english")
    assert published.asked == [("/english/encoder.onnx", "bytes=100000-")]


def test_a_server_that_cannot_begin_in_the_middle_gives_all_again(published: Server) -> None:
    published.ranges, published.cuts = False, [SIZE, 100_000]
    assert contents(fetched()) == contents(published.folder / "english")
    assert starts(published) == [None, "bytes=100000-"]


@pytest.mark.parametrize("cut", [0, 100_000])
def test_other_contents_are_refused_and_not_kept(published: Server, own_registry: Path, cut: int) -> None:
    published.changes = {"encoder.onnx": b"x" * SIZE}
    published.cuts = [SIZE, cut] if cut else []
    said = refusal()
    assert f"{published.url}/english/encoder.onnx was changed or damaged" in said and "SHA-256" in said
    assert not list((own_registry / "cache").rglob("encoder.onnx"))
    published.changes = {}
    assert contents(fetched()) == contents(published.folder / "english")


@pytest.mark.parametrize("extra", [b"", b"x" * (SIZE + 1)], ids=["shorter", "longer"])
@pytest.mark.parametrize("says_length", [True, False])
def test_a_file_of_another_size_is_refused(published: Server, extra: bytes, says_length: bool) -> None:
    published.changes, published.says_length = {"encoder.onnx": extra}, says_length
    said = refusal()
    assert ("was changed or damaged" in said) == (says_length or bool(extra)), said


def test_another_file_in_the_middle_of_a_fetch_is_refused(published: Server) -> None:
    entry = read_entries()["english"]
    part = places.cache_folder(entry).with_name(f"{places.cache_folder(entry).name}.part")
    part.mkdir(parents=True)
    (part / "encoder.onnx").write_bytes(bytes(100))
    published.changes = {"encoder.onnx": b"x" * (SIZE + 5)}
    assert "not the rest of 1,024,000 bytes from byte 100 on" in refusal()


def test_what_lies_in_the_place_of_a_part_is_not_believed(published: Server) -> None:
    entry = read_entries()["english"]
    part = places.cache_folder(entry).with_name(f"{places.cache_folder(entry).name}.part")
    part.mkdir(parents=True)
    (part / "encoder.onnx").write_bytes(b"x" * (SIZE + 1))
    (part / "manifest.json").write_bytes(b"x" * 19)  # as long as the right one
    (part / "stray.py").write_text("raise SystemExit")
    assert "manifest.json was changed or damaged" in refusal()
    assert contents(fetched()) == contents(published.folder / "english")


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_refusing_server_is_one_line(published: Server, status: int) -> None:
    published.status = status
    assert f"/english/manifest.json cannot be fetched: HTTP {status} " in refusal()


def test_offline_is_one_line(published: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    entry = replace(read_entries()["english"], source="http://127.0.0.1:9/english")  # nobody listens there
    write_entries([entry])
    said = refusal()
    assert said.startswith("the model english (1 MB) is not on this machine, and 127.0.0.1:9 cannot be reached (")
    write_entries([replace(entry, source="https://models.example.org/english")])
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    assert "models.example.org cannot be reached (Name or service not known); with a network run: " in refusal()


def test_two_at_once_fetch_once(published: Server) -> None:
    begin = threading.Barrier(2)

    def run(_: int) -> Path:
        begin.wait()
        return fetched()

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, range(2))
    assert first == second and sorted(path for path, _ in published.asked) == [
        "/english/encoder.onnx",
        "/english/manifest.json",
    ]


def test_a_mirror_comes_before_the_address_of_the_registry(published: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    write_entries([replace(read_entries()["english"], source="")])
    assert "comes with a clone of the repository, as models/english, which is not here" in refusal()
    monkeypatch.setenv("LAYERDIAL_MODELS_URL", "file:///etc")
    assert "LAYERDIAL_MODELS_URL is 'file:///etc'; give a URL that begins with https://" in refusal()
    monkeypatch.setenv("LAYERDIAL_MODELS_URL", published.url)
    assert contents(fetched()) == contents(published.folder / "english")


def test_no_room_is_said_before_anything_is_fetched(published: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert "has 0 MB free, english needs 1 MB" in refusal()
    assert not published.asked


def test_a_cache_that_cannot_be_written_is_one_line(
    published: Server, own_registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_registry / "file").touch()
    monkeypatch.setenv("LAYERDIAL_CACHE", str(own_registry / "file"))
    assert f"cannot write {own_registry / 'file'}" in refusal()


def test_another_model_under_the_same_name_is_fetched_beside_it(published: Server) -> None:
    first = fetched()
    (published.folder / "english" / "manifest.json").write_text("{}")
    write_entries([entry_of(published.folder / "english", f"{published.url}/english")])
    assert fetched() != first and first.is_dir()


def test_the_clones_folder_comes_before_the_cache_and_a_folder_here_before_both(
    published: Server, own_registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own_registry)
    cached = model_folder("english")
    clone = shutil.copytree(published.folder / "english", places.clone_folder("english"))
    assert cached == fetched() and model_folder("english") == clone
    (own_registry / "english").mkdir()  # a folder that is no model
    assert model_folder("english") == clone
    shutil.copytree(clone, own_registry / "english", dirs_exist_ok=True)
    assert model_folder("english") == Path("english")


def test_a_package_installed_from_a_clone_finds_its_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, noted = tmp_path / "site-packages" / "layerdial", tmp_path / "layerdial-1.dist-info"
    clone = tmp_path / "a clone"
    (clone / "models" / "english").mkdir(parents=True)
    noted.mkdir()
    monkeypatch.setattr(places.layerdial, "__file__", str(package / "__init__.py"))
    monkeypatch.setattr(places, "distribution", lambda name: PathDistribution(noted))
    assert places.clone_folder("english") == package.parents[1] / "models" / "english"
    (noted / "direct_url.json").write_text(json.dumps({"dir_info": {}, "url": clone.as_uri()}))
    assert places.clone_folder("english") == clone / "models" / "english"
    (noted / "direct_url.json").write_text(json.dumps({"vcs_info": {}, "url": "https://somewhere/layerdial.git"}))
    assert places.installed_from() is None


def test_an_unknown_name_lists_the_known_ones(published: Server) -> None:
    with pytest.raises(UserError) as refused:
        model_folder("englsh")
    assert str(refused.value) == (
        "there is no model 'englsh': no folder of that name is here, and the registry has english"
    )
    assert not published.asked
