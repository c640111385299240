"""Where something of the installation is missing: packages, a home, a user, a newer ONNX Runtime."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime
import pytest
import soundfile

from layerdial.errors import UserError
from layerdial.runtime import Recognizer
from tiny import speak

pytest_plugins = ["tiny_export"]
pytestmark = pytest.mark.medium  # loads models again and again, some in processes of their own

OLD = Path(__file__).parent / "old_artefacts"
EXTRAS = {
    *(
        "torch",
        "onnxruntime",
        "soundfile",
        "soxr",
        "typer",
        "click",
        "pydantic",
        "yaml",
        "rich",
        "lhotse",
        "safetensors",
    ),
    *("sentencepiece", "accelerate", "jiwer", "matplotlib", "transformers", "huggingface_hub"),
}
WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
sys.argv[1:] = {words}
"""
COMMAND = "from layerdial.cli.entry import main; main()"


def run(code: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """Python code in a process whose environment has these values; None takes one out."""
    values = {key: value for key, value in {**os.environ, **environment}.items() if value is not None}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=values)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["transcribe", "exported", "a.flac"], ["onnxruntime", "pip install '.[runtime]'"]),
        (["profile", "exported"], ["onnxruntime", "pip install '.[runtime]'"]),
        (["transcribe", "model", "a.flac"], ["is a torch model", "pip install '.[train]'"]),
        (["train", "recipe.yaml"], ["train", "pip install '.[train]'"]),
    ],
    ids=lambda value: " ".join(value[:2]),
)
def test_a_command_without_extras_names_the_one_that_is_missing(words: list[str], said: list[str]) -> None:
    names = {"exported": str(OLD / "exported"), "model": str(OLD / "model")}
    code = WITHOUT.format(packages=EXTRAS, words=[names.get(word, word) for word in words]) + COMMAND
    ended = run(code)
    assert ended.returncode == 2 and ended.stdout == "" and ended.stderr.count("\n") == 1
    for part in said:
        assert part in ended.stderr and "layerdial[" not in ended.stderr


@pytest.mark.parametrize(
    ("folder", "missing"), [("model", "torch"), ("exported", "onnxruntime"), ("model", "safetensors")]
)
def test_loading_a_model_without_extras_is_the_users_mistake(folder: str, missing: str) -> None:
    packages = EXTRAS if missing != "safetensors" else {"safetensors"}
    code = (
        WITHOUT.format(packages=packages, words=[])
        + f"""
import layerdial
try:
    layerdial.load_model({str(OLD / folder)!r})
except layerdial.UserError as error:
    print(error)
"""
    )
    ended = run(code)
    assert ended.returncode == 0 and missing in ended.stdout and "pip install '.[" in ended.stdout


def test_an_onnxruntime_that_is_too_old_is_named_with_what_is_needed(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, refused in (("1.17.1", True), ("1.9.0", True), ("1.23.0", False), ("2.0.0rc1", False)):
        monkeypatch.setattr(onnxruntime, "__version__", version)
        if not refused:
            Recognizer(exported, threads=1)
            continue
        with pytest.raises(UserError, match=rf"need ONNX Runtime 1\.23 or newer, this is {version}"):
            Recognizer(exported, threads=1)


# As a user without a name and a home, with the rights to read what root has installed.
UNKNOWN = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "--inh-caps=+dac_read_search")
needs_root = pytest.mark.skipif(
    not shutil.which("setpriv") or os.getuid() != 0, reason="only root can become another user"
)


@pytest.fixture
def for_all() -> Iterator[Path]:
    """A folder that every user can read; pytest's own are for one."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@needs_root
@pytest.mark.parametrize("home", [None, "/", "/nowhere"])
@pytest.mark.parametrize("start", ["layerdial", "layerdial.cli.device"])
def test_a_user_without_home_and_name_transcribes(exported: Path, for_all: Path, home: str | None, start: str) -> None:
    main = COMMAND if start == "layerdial" else f"from {start} import main; main()"
    assert_unknown_transcribes(exported, for_all, home, main)


@needs_root
@pytest.mark.parametrize("home", [None, "/", "/nowhere"])
def test_a_user_without_home_and_name_can_import_all_that_trains_and_use_it(
    learnt: Path, for_all: Path, home: str | None
) -> None:
    code = (
        "import layerdial.training.loop, layerdial.evaluation.run, layerdial.export.export, layerdial.evaluation.plots"
    )
    main = f"from layerdial.cli.app import _show_log; _show_log(); {code}; {COMMAND}"
    assert_unknown_transcribes(learnt, for_all, home, main)


def assert_unknown_transcribes(model: Path, for_all: Path, home: str | None, main: str) -> None:
    soundfile.write(for_all / "a.wav", speak("low high", 3), 16000)
    place = shutil.copytree(model, for_all / model.name)
    ended = as_unknown(f"import sys; sys.argv[1:] = {['transcribe', str(place), str(for_all / 'a.wav')]}; {main}", home)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "low high\n", "")


def as_unknown(code: str, home: str | None) -> subprocess.CompletedProcess[str]:
    names = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME")
    values = {key: value for key, value in os.environ.items() if key not in names}
    words = [*UNKNOWN, "--ambient-caps=+dac_read_search", sys.executable, "-c", code]
    return subprocess.run(words, capture_output=True, text=True, env=values | ({"HOME": home} if home else {}))
