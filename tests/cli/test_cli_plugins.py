"""`--plugin` on every command that opens a model, and what the commands say without it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from layerdial.training.loop import train
from tiny import command, tiny_recipe
from tiny_plugins import CONV_STACK, forget_plugins, own_names

__all__ = ["own_names"]
pytestmark = pytest.mark.usefixtures("own_names")


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a family that this process does not know any more."""
    folder = tmp_path_factory.mktemp("stack")
    changes = ("model={family: conv_stack, n_blocks: 3, width: 16, kernel: 5}", f"plugins=[{CONV_STACK}]")
    steps = ("train.steps=2", "train.eval_every=2")
    model = train(tiny_recipe(folder / "run", corpus.train, corpus.dev, *changes, *steps))
    forget_plugins()
    return model


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
def test_every_command_takes_a_plugin(corpus, model: Path, tmp_path: Path) -> None:
    plugin, audio = ("--plugin", CONV_STACK), next((corpus.dev.parent / "audio").glob("dev*.wav"))
    for arguments in (
        ("search", model, corpus.dev, "--workers", 0),
        ("sweep", model, corpus.dev, "--depths", "1,3", "--workers", 0),
        ("transcribe", model, audio, "--depth", 2),
        ("export", model, tmp_path / "exported"),
    ):
        ended = command(*arguments, *plugin)
        assert ended.code == 0, ended.err
    assert (model / "ladder.json").is_file()
    texts = [command("transcribe", model, audio, *plugin), command("transcribe", tmp_path / "exported", audio)]
    assert texts[0].out == texts[1].out and texts[1].code == 0


@pytest.mark.parametrize("name", ["search", "sweep", "transcribe", "export"])
def test_without_it_one_line_says_what_is_missing(corpus, model: Path, tmp_path: Path, name: str) -> None:
    last = {"search": corpus.dev, "sweep": corpus.dev, "transcribe": tmp_path / "a.wav", "export": tmp_path / "out"}
    ended = command(name, model, last[name])
    assert ended.code == 2 and ended.err.count("\n") <= 2
    line = ended.err.splitlines()[-1]
    assert f"{model} is of family 'conv_stack', which is not known here (it was made with {CONV_STACK})" in line
    assert "--plugin FILE.py" in line


def test_a_plugin_that_is_not_there_is_one_line(model: Path, tmp_path: Path) -> None:
    ended = command("transcribe", model, tmp_path / "a.wav", "--plugin", tmp_path / "no.py")
    assert ended.code == 2 and ended.err.count("\n") == 1 and "no.py does not exist" in ended.err
