"""The version of the code says whether the package was changed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from layerdial.utils import version
from layerdial.utils.version import code_version


@pytest.mark.skipif(shutil.which("git") is None, reason="this machine has no git")
def test_a_changed_package_is_dirty_and_changed_results_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = package, results = tmp_path / "src/layerdial/__init__.py", tmp_path / "experiments/results.jsonl"
    for file in files:
        file.parent.mkdir(parents=True)
        file.touch()
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr("layerdial.__file__", str(package))
    commit = code_version()
    assert re.fullmatch("[0-9a-f]{12}", commit)
    results.write_text("{}\n")
    assert in_another_process() == commit
    package.write_text("changed = 1\n")
    assert code_version() == commit  # what was imported before the change goes on to run
    assert in_another_process() == f"{commit}-dirty"


def in_another_process() -> str:
    """The version for a process that has not asked yet."""
    version._version_of.cache_clear()
    return code_version()
