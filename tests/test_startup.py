"""Starting is quick: each way to start imports what it needs, counted in modules, which is the same on any machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from tiny import speak

EXPORTED = Path(__file__).parent / "old_artefacts" / "exported"
TRAINING = {"torch", "lhotse", "transformers", "accelerate", "matplotlib", "jiwer", "sentencepiece", "onnx", "yaml"}
COMMAND_LINE = {"typer", "click", "pydantic", "rich", "pygments"}
RUNTIME = {"numpy", "onnxruntime", "soundfile", "soxr"}

PROGRAM = """
import sys
before, sys.argv = set(sys.modules), ["layerdial", *sys.argv[1:]]
try:
    {code}
except SystemExit as ended:
    assert not ended.code, ended.code
print(*sorted(set(sys.modules) - before))
"""


def imported(code: str, *arguments: object) -> set[str]:
    """The modules that one line of Python imports in a fresh process, with these arguments on its command line."""
    program = [sys.executable, "-c", PROGRAM.format(code=code), *map(str, arguments)]
    return set(subprocess.run(program, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split())


def assert_few(found: set[str], of_the_package: int, all_together: int) -> None:
    """No more modules than that, of the package and of everything that Python itself does not begin with."""
    own = sorted(name for name in found if name.partition(".")[0] == "layerdial")
    assert len(own) <= of_the_package, own
    assert len(found) <= all_together, sorted(found)


def packages(found: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in found}


def test_importing_the_package() -> None:
    found = imported("import layerdial")
    assert not packages(found) & (TRAINING | COMMAND_LINE | RUNTIME)
    assert_few(found, 3, 60)  # 3 and 52, on Python 3.11


def test_help() -> None:
    found = imported("from layerdial.cli.app import main; main()", "--help")
    assert "layerdial.cli.train" in found and not packages(found) & (TRAINING | RUNTIME | {"pydantic", "rich"})
    assert_few(found, 29, 162)  # 29 and 160


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "a.wav", speak("low high middle", 1), 16000)
    return tmp_path / "a.wav"


def test_transcribing_by_an_exported_model(clip: Path) -> None:
    found = imported("from layerdial.cli.app import main; main()", "transcribe", EXPORTED, clip)
    assert "onnxruntime" in found and not packages(found) & TRAINING
    assert_few(found, 95, 446)  # 95 and 439


def test_transcribing_by_the_command_line_of_a_device(clip: Path) -> None:
    found = imported("from layerdial.cli.device import main; main()", "transcribe", EXPORTED, clip)
    assert "onnxruntime" in found and not packages(found) & (TRAINING | COMMAND_LINE)
    assert_few(found, 78, 302)  # 78 and 294
