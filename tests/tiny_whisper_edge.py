"""A tiny random Whisper, exported once a session: a test file asks for it by its name in `pytest_plugins`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import made_once
from layerdial.models.torch_recognizer import load_torch_model
from layerdial.runtime import Recognizer
from tiny import command
from tiny_whisper import Pair, save_whisper


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model`, which takes audio of any length, and its export `edge`, made by the command."""

    def make(folder: Path) -> None:
        model = save_whisper(folder / "model", max_source_positions=1500)
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"takes_any_length": True}))
        ended = command("export", model, folder / "edge", "--licence", "MIT")
        assert ended.code == 0, ended.err
        (folder / "said.txt").write_text(ended.out)

    return made_once(tmp_path_factory, "whisper-edge", make)


@pytest.fixture(scope="session")
def pair(folders: Path) -> Pair:
    return Pair(load_torch_model(folders / "model"), Recognizer(folders / "edge", threads=1))
