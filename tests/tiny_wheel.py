"""The wheel of this package, built from a copy of the clone, so that no build folder is left in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_NEEDED = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "src", "recipes", "experiments")


def build_wheel(folder: Path) -> Path:
    """Return a wheel in `folder`, built with the setuptools of this environment."""
    pytest.importorskip("setuptools", minversion="77")
    source = folder / "source"
    for name in _NEEDED:
        _copy(ROOT / name, source / name)
    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    return next(folder.glob("layerdial-*.whl"))


def _copy(place: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        shutil.copytree(place, to, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "results"))
    else:
        shutil.copy(place, to)


def pip(python: object, *words: object) -> None:
    done = subprocess.run([str(python), "-m", "pip", *map(str, words)], capture_output=True, text=True)
    if done.returncode and any(sign in done.stderr for sign in ("ConnectionError", "No matching distribution")):
        pytest.skip(f"packages cannot be fetched here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
