"""The model that has learnt the tones, exported once a session; a test file asks for it by
`pytest_plugins = ["tiny_export"]`, which makes its fixtures known as those of conftest.py are.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import made_once
from layerdial.runtime import Recognizer

if TYPE_CHECKING:
    from layerdial.export.writer import Traced
    from layerdial.models.torch_recognizer import TorchRecognizer
    from tiny_golden import Export


@pytest.fixture(scope="session")
def laddered(learnt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The torch model, with a ladder whose deeper rungs are better, and whose subsets even spacing would not choose."""
    from layerdial.ladder import Ladder, Rung

    folder = tmp_path_factory.mktemp("laddered") / "model"
    shutil.copytree(learnt, folder)
    rungs = (Rung(1, "010", 0.3, 0.3, 30, 100), Rung(2, "011", 0.2, 0.2, 20, 100), Rung(3, "111", 0.1, 0.1, 10, 100))
    Ladder(3, "loss", "dev", 100, rungs).save(folder / "ladder.json")
    return folder


@pytest.fixture(scope="session")
def exported(laddered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `layerdial export` makes of it. It is shared: copy it before changing anything in it.

    What the command said is beside it, in `said.json`. It runs in this process, for the packages that tracing imports
    take as long as the tracing, and other models are traced here too.
    """
    from layerdial.cli.app import app

    def make(folder: Path) -> None:
        arguments = ["export", laddered, folder / "edge", "--licence", "CC-BY-4.0", "--name", "tones"]
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            app([*map(str, arguments)], standalone_mode=False)
        (folder / "said.json").write_text(json.dumps({"out": out.getvalue(), "err": err.getvalue()}), encoding="utf-8")

    return made_once(tmp_path_factory, "exported", make) / "edge"


@pytest.fixture(scope="session")
def edge(exported: Path) -> Recognizer:
    """It, loaded with one thread."""
    return Recognizer(exported, threads=1)


@pytest.fixture(scope="session")
def heavy(laddered: Path) -> TorchRecognizer:
    """The torch model that `edge` was made of."""
    from layerdial import load_model

    return load_model(laddered)


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """An exported folder to damage."""
    return shutil.copytree(exported, tmp_path / "copy")


@pytest.fixture(scope="session")
def exported_old(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """What this version exports of the self-conditioned model that an older one trained."""
    from tiny_golden import MODEL, Export

    folder = made_once(tmp_path_factory, "exported-old", lambda folder: Export.of(MODEL, folder / "edge"))
    return Export(folder / "edge")


@pytest.fixture(scope="session")
def traced(laddered: Path, exported: Path) -> Traced:
    """What the export works on between tracing and writing."""
    return traced_again(laddered, exported)


@pytest.fixture(scope="session")
def trace_tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Traced]]:
    """A tiny Hugging Face model of three blocks by the name of its variant: its folder, and its graph, traced once."""
    from layerdial.export.export import export_model
    from tiny_hf import save_tiny

    def make(folder: Path) -> None:
        variant = folder.name.removeprefix("traced-")
        export_model(save_tiny(folder / variant, variant, num_hidden_layers=3), folder / "edge")

    @cache
    def made(variant: str) -> tuple[Path, Traced]:
        folder = made_once(tmp_path_factory, f"traced-{variant}", make)
        return folder / variant, traced_again(folder / variant, folder / "edge")

    return made


def traced_again(model: Path, edge: Path) -> Traced:
    """What the export of `model` to `edge` worked on, put together from the two folders, which takes no time."""
    import onnx_ir as ir

    from layerdial.export.writer import Traced
    from layerdial.ladder import Ladder
    from layerdial.models.checkpoint import load_network
    from layerdial.runtime.manifest import Manifest
    from layerdial.text.tokenizer import PieceTable, read_tokens

    network, _ = load_network(model)
    manifest = Manifest.load(edge)
    pieces = PieceTable(read_tokens(edge / "tokens.txt"), manifest.silent_tokens)
    return Traced(network, pieces, Ladder.beside(edge, network.n_blocks), manifest, ir.load(edge / "model.onnx"))
