"""The wheel installed as on a device, with `layerdial[runtime]` and nothing else: it transcribes, and it is small."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile

from tiny import speak
from tiny_wheel import build_wheel, pip

pytest_plugins = ["tiny_export"]
pytestmark = pytest.mark.slow  # builds a wheel, and fetches and installs packages

ROOT = Path(__file__).parents[2]
TEXT = "low high middle high low low"
UNWANTED = ("torch", "lhotse", "transformers", "onnx", "sentencepiece", "jiwer", "matplotlib", "typer", "pydantic")


@dataclass(frozen=True)
class Alone:
    """An environment with the wheel in it, and a folder to work in."""

    folder: Path
    wheel: Path

    @property
    def python(self) -> Path:
        return self.folder / "venv" / "bin" / "python"

    @property
    def packages(self) -> Path:
        return next((self.folder / "venv" / "lib").glob("python*/site-packages"))

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        """A command of that environment, with nothing of ours on its path."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
        return subprocess.run(
            [str(self.python.parent / str(words[0])), *map(str, words[1:])],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=environment,
        )

    def said(self, *words: object) -> str:
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, exported: Path) -> Alone:
    folder = tmp_path_factory.mktemp("alone")
    made = Alone(folder, build_wheel(folder))
    venv.create(folder / "venv", with_pip=True)
    pip(made.python, "install", f"{made.wheel}[runtime]")
    shutil.copytree(exported, folder / "edge")
    soundfile.write(folder / "a.flac", speak(TEXT, seed=77, rate=48000), 48000)
    return made


def size_mb(folder: Path, bytecode: bool = False) -> float:
    """Megabytes of the packages, without what a new environment has, and what Python writes when it compiles them."""
    files = (file for file in folder.rglob("*") if file.is_file())
    own = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
    return (
        sum(
            file.stat().st_size
            for file in files
            if (bytecode or "__pycache__" not in file.parts) and not file.relative_to(folder).parts[0].startswith(own)
        )
        / 1e6
    )


def test_the_wheel_holds_what_is_not_python_too(alone: Alone) -> None:
    installed = {file.relative_to(alone.packages).as_posix() for file in (alone.packages / "layerdial").rglob("*")}
    assert {
        "layerdial/audio/kaldi_fbank.onnx",
        "layerdial/py.typed",
        "layerdial/registry/known.json",
        "layerdial/demo/recipes/sc-exits.yaml",
    } <= installed
    ours = {file.relative_to(ROOT / "src").as_posix() for file in (ROOT / "src" / "layerdial").rglob("*.py")}
    assert ours <= installed


def test_nothing_of_training_is_installed(alone: Alone) -> None:
    installed = {item["name"].lower() for item in json.loads(alone.said("pip", "list", "--format", "json"))}
    assert {"layerdial", "numpy", "onnxruntime", "soundfile"} <= installed
    assert not installed & set(UNWANTED)
    assert not [name for name in UNWANTED if (alone.packages / name).exists()]


def test_the_packages_hold_less_than_150_mb(alone: Alone) -> None:
    print(f"packages {size_mb(alone.packages):.1f} MB, compiled {size_mb(alone.packages, bytecode=True):.1f} MB")
    assert size_mb(alone.packages) < 150


def test_a_program_transcribes(alone: Alone) -> None:
    code = """
from layerdial.runtime import Recognizer
recognizer = Recognizer("edge")
print(recognizer.transcribe("a.flac").text)
print(recognizer.transcribe("a.flac", deadline_ms=1e6).text)
print(recognizer.transcribe("a.flac", depth=1).subset.key)
"""
    assert alone.said("python", "-c", code).splitlines() == [TEXT, TEXT, "010"]


def test_the_command_transcribes(alone: Alone) -> None:
    assert alone.said("layerdial", "transcribe", "edge", "a.flac") == f"{TEXT}\n"
    row = json.loads(alone.said("layerdial", "transcribe", "edge", "a.flac", "--deadline-ms", "10000", "--json"))
    assert (row["file"], row["text"], row["depth"], row["subset"]) == ("a.flac", TEXT, 3, "111")
    assert row["reason"].startswith("deepest within ")


def test_the_command_measures_this_device(alone: Alone) -> None:
    shutil.copytree(alone.folder / "edge", alone.folder / "measured")
    said = alone.said("layerdial", "profile", "measured", "--threads", "1", "--budget", "1")
    assert "1 thread, 10 s of audio; peak memory for 30 s" in said and "profile: measured/profile.json" in said
    assert "None" not in said
    stored = json.loads((alone.folder / "measured" / "profile.json").read_text())
    assert [table["threads"] for table in stored["tables"]] == [1]
    done = alone.run("layerdial", "transcribe", "measured", "a.flac", "--deadline-ms", "10000")
    assert done.returncode == 0 and done.stdout.startswith(TEXT)


def test_every_module_of_the_runtime_can_be_imported(alone: Alone) -> None:
    names = sorted(file.stem for file in (ROOT / "src" / "layerdial" / "runtime").glob("*.py"))
    code = "import " + ", ".join(f"layerdial.runtime.{name}" for name in names if name != "__init__")
    assert alone.said("python", "-c", code + ", layerdial, layerdial.recognizer") == ""


@pytest.mark.parametrize(
    "words", [["--help"], ["transcribe", "--help"], ["models", "--help"], ["try", "--help"]], ids=str
)
def test_help_is_there(alone: Alone, words: list[str]) -> None:
    assert "usage: layerdial" in alone.said("layerdial", *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["transcribe", "edge", "missing.wav"], "missing.wav does not exist"),
        (["transcribe", "nowhere", "a.flac"], "there is no model 'nowhere'"),
        (["transcribe", "edge", "a.flac", "--depth", "9"], "depth 9 does not exist in an encoder of 3 blocks"),
        (["transcribe", "edge", "a.flac", "--threads", "0"], "threads is 0; give 1 or more"),
        (["transcribe", "edge", "a.flac", "--deadline-ms", "-1"], "deadline_ms is -1.0; give a number above 0"),
        (["transcribe", "edge", "a.flac", "--depth", "1", "--max-cpu", "1"], "give one of depth, max_cpu, not 2"),
        (["profile", "nowhere"], "there is no model 'nowhere'"),
        (["profile", "edge", "--threads", "0"], "threads is 0; give 1 or more"),
    ],
    ids=str,
)
def test_wrong_input_is_one_line_and_exit_code_2(alone: Alone, words: list[str], message: str) -> None:
    done = alone.run("layerdial", *words)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("measuring: ")]
    assert (done.returncode, done.stdout, len(lines)) == (2, "", 1)
    assert lines[0].startswith("layerdial: ") and message in lines[0]


def test_a_reader_that_has_seen_enough_is_no_error(alone: Alone) -> None:
    """As in `layerdial transcribe ... | head -1`."""
    code = "import sys; sys.stdin.close()"
    line = f'"{alone.python.parent}/layerdial" transcribe edge {"a.flac " * 20} | "{alone.python}" -c "{code}"'
    done = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=alone.folder)
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("command", ["export", "search", "sweep", "train", "prepare", "prune", "demo"])
def test_a_command_that_needs_training_says_what_to_install(alone: Alone, command: str) -> None:
    done = alone.run("layerdial", command, "edge")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "pip install" in done.stderr and "'.[" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
