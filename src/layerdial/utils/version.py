"""Which code is running."""

from __future__ import annotations

import subprocess
from pathlib import Path

import layerdial


def code_version() -> str:
    """The commit of the checkout that the package runs from, with -dirty if its files were changed; else its version.

    Other files do not count: what a run was asked for is stored with it, and results are written by runs.
    """
    folder = Path(layerdial.__file__).parent

    def git(*arguments: str) -> str:
        ran = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
        return ran.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # installed below somebody else's checkout, it is not in it
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return layerdial.__version__
