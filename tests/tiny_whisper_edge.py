"""A tiny random Whisper, exported once a session: a test file asks for it by its name in `pytest_plugins`."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import made_once
from layerdial.models.torch_recognizer import load_torch_model
from layerdial.runtime import Recognizer
from tiny_whisper import Pair, save_student


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model`, which takes audio of any length, and its export `edge`, made by the command."""
    return made_once(tmp_path_factory, "whisper-edge", save_student)


@pytest.fixture(scope="session")
def pair(folders: Path) -> Pair:
    return Pair(load_torch_model(folders / "model"), Recognizer(folders / "edge", threads=1))
