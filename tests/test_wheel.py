"""The wheel without the clone: it has the recipes and suites that the documents name, and copies them whole."""

from __future__ import annotations

import filecmp
import os
import subprocess
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from tiny_wheel import ROOT, build_wheel, pip

pytestmark = pytest.mark.slow  # builds a wheel and makes an environment


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel and with this one's other packages, and a folder to work in."""

    python: Path
    folder: Path

    def layerdial(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
        command = [self.python.with_name("layerdial"), *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=self.folder, env=environment)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    pip(python, "install", "--no-deps", "--no-index", build_wheel(folder))
    packages = next((folder / "venv" / "lib").glob("python*/site-packages"))
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))  # where .pth files of that place do not count
    (folder / "work").mkdir()
    return Installed(python, folder / "work")


def test_every_recipe_suite_and_plugin_is_copied_as_it_is_in_the_clone(installed: Installed) -> None:
    listed = installed.layerdial("recipes", "list")
    assert listed.returncode == 0, listed.stderr
    for line in listed.stdout.splitlines():
        done = installed.layerdial("recipes", "copy", line.split()[0], "--force")
        assert done.returncode == 0 and done.stderr == "", done.stderr
    for folder in ("recipes", "experiments/suites", "experiments/plugins"):
        files = [file for file in (ROOT / folder).rglob("*.*") if file.parent != ROOT / "recipes"]
        names = [str(file.relative_to(ROOT)) for file in files if "__pycache__" not in file.parts]
        _, *different = filecmp.cmpfiles(ROOT, installed.folder, names, shallow=False)
        assert names and different == [[], []]


def test_the_page_for_browsers_is_in_the_wheel(installed: Installed) -> None:
    page = next((installed.python.parents[1] / "lib").glob("python*/site-packages/layerdial/export/web"))
    own = ROOT / "src" / "layerdial" / "export" / "web"
    _, *different = filecmp.cmpfiles(own, page, [file.name for file in own.iterdir()], shallow=False)
    assert different == [[], []] and (page / "index.html").is_file()


def test_what_was_copied_can_be_run_as_the_documents_say(installed: Installed) -> None:
    installed.layerdial("recipes", "copy", "librispeech-mini", "mine")
    done = installed.layerdial("train", "mine/sc-exits.yaml")
    assert done.returncode == 2 and "data/librispeech-mini" in done.stderr  # as far as the corpus
    missing = installed.layerdial("train", "recipes/none/dld.yaml")
    assert missing.stderr == "layerdial: recipe recipes/none/dld.yaml does not exist\n"


def test_a_recipe_that_is_not_here_yet_is_named(installed: Installed, tmp_path: Path) -> None:
    elsewhere = Installed(installed.python, tmp_path)
    done = elsewhere.layerdial("train", "recipes/wavlm/dld.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "recipes/wavlm/dld.yaml does not exist; `layerdial recipes copy wavlm` writes it" in done.stderr
