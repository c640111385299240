"""The version of the code that runs."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import layerdial


def code_version() -> str:
    """Return the commit of the checkout that the package runs from, with -dirty for changed files, else its version.

    Only the package's files count: the settings of a run are stored with it, and results are written by runs. A process
    asks once, for what is committed while it works is not what it runs.
    """
    return _version_of(Path(layerdial.__file__).parent)


@cache
def _version_of(folder: Path) -> str:
    def git(*arguments: str) -> str:
        ran = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
        return ran.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # fails where it is installed inside another checkout
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return layerdial.__version__
