"""What both command lines have of `layerdial transcribe --manifest`. Imports nothing heavy: --help."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from layerdial.errors import UserError
from layerdial.registry import DEFAULT

if TYPE_CHECKING:
    from layerdial.recognizer import Recognizer
    from layerdial.request import Request

HELP = {
    "manifest": 'Transcribe all files of this one, JSON lines such as {"file": "a.wav"}, instead of AUDIO.',
    "out": "With --manifest: the file of rows; what has a row there is not done again.",
    "finish_by": "With --manifest: be done by 18:00, at the deepest depth that keeps it (exported models).",
    "ray": "With --manifest: on the Ray cluster of RAY_ADDRESS, or on one of this machine.",
    "workers": "With --manifest: so many processes; as many as there are CPUs if left out.",
}


@dataclass(frozen=True)
class BulkOptions:
    """The options that are for a manifest alone."""

    manifest: Path | None
    out: Path | None
    finish_by: str | None
    workers: int | None
    ray: bool

    def asked(self, others: Mapping[str, object]) -> bool:
        """Return whether a manifest is transcribed. Raises `UserError` for options that are not of one kind.

        `others` are the options for audio files alone, with what was given for them.
        """
        if self.manifest is None:
            for name in (name for name in ("out", "finish_by", "workers", "ray") if getattr(self, name)):
                raise UserError(f"{_flag(name)} is for --manifest FILES.jsonl; for audio files there is --output-dir")
            return False
        if self.out is None:
            raise UserError("--manifest needs --out OUT.jsonl, where the rows go")
        for name in (name for name, value in others.items() if value):
            raise UserError(f"{_flag(name)} is for audio files; --manifest writes rows of JSON into --out")
        return True


def run_bulk(
    names: Sequence[str], options: BulkOptions, request: Request, load: Callable[[str], Callable[[], Recognizer]]
) -> int:
    """Transcribe a manifest; `load(model)` is what loads a model in each process. Return the exit code."""
    from datetime import datetime

    from layerdial.bulk.finish import parse_finish
    from layerdial.bulk.run import Bulk, transcribe_manifest

    if len(names) > 1:
        raise UserError(f"with --manifest there is no AUDIO; leave out {names[1]}")
    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers is {options.workers}; give 1 or more")
    assert options.manifest is not None and options.out is not None
    end = None if options.finish_by is None else parse_finish(options.finish_by, datetime.now().astimezone())
    model = names[0] if names else DEFAULT
    return transcribe_manifest(
        Bulk(options.manifest, options.out, model, load(model), request, options.workers, end, options.ray)
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
