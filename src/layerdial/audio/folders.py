"""The audio files in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from layerdial.audio.files import EXTENSIONS


def audio_files(folder: Path) -> Iterator[Path]:
    """Yield the files with names of audio in a folder and those in it, in the order of names; hidden ones are not."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and EXTENSIONS.fullmatch(Path(name).suffix):
                yield Path(place, name)
