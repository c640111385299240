"""Write down what the package computes now, for `test_golden.py`: `python tests/golden/record.py`.

Run it by hand, and only where a change of what is computed is wanted; the commit then says which and why.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # as in the tests
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import tiny_golden as golden  # noqa: E402


def main() -> None:
    with TemporaryDirectory() as folder:
        write("losses", record_losses(Path(folder) / "training"))
        for name, found in record_model(Path(folder)).items():
            write(name, found)


def record_losses(folder: Path) -> dict[str, Any]:
    workshop = golden.Workshop(folder)
    return {name: workshop.losses(name) for name in golden.RUNS}


def record_model(folder: Path) -> dict[str, Any]:
    """The sweep, the export and the transcripts of the stored model and of its export."""
    cuts, audio = golden.write_noisy(folder), golden.write_audio(folder / "audio")
    export = golden.Export.of(golden.MODEL, folder / "exported")
    return {
        "sweep": {
            "torch": golden.sweep_rows(golden.MODEL, cuts, ("ladder", "prefix", "random")),
            "exported": golden.sweep_rows(export.folder, cuts, ("ladder",)),
        },
        "export": {
            "versions": export.versions(),
            "checksums": export.checksums(),
            "manifest": export.manifest(),
            "log_probabilities": export.log_probabilities(golden.SUBSETS),
        },
        "transcribe": {
            "torch": golden.transcripts(golden.MODEL, audio, golden.FOR_TORCH),
            "exported": golden.transcripts(export.folder, audio, golden.TRANSCRIBE),
        },
    }


def write(name: str, found: dict[str, Any]) -> None:
    """One line for each entry of the second level, so that a difference is easy to find."""
    entries = []
    for key, value in found.items():
        inner = value.items() if isinstance(value, dict) else None
        if inner is None:
            entries.append(f"{json.dumps(key)}: [\n    " + ",\n    ".join(map(json.dumps, value)) + "\n  ]")
        else:
            lines = ",\n    ".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in inner)
            entries.append(f"{json.dumps(key)}: {{\n    {lines}\n  }}")
    (HERE / f"{name}.json").write_text("{\n  " + ",\n  ".join(entries) + "\n}\n", encoding="utf-8")
    print(HERE / f"{name}.json")


if __name__ == "__main__":
    main()
