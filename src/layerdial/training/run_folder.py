"""The folder of a run: meta.json, metrics.jsonl, TensorBoard events, checkpoints/, model/."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import torch

import layerdial
from layerdial.config.old_keys import gone_key
from layerdial.config.recipe import Recipe, own_code, with_defaults
from layerdial.data.manifest import Rejected
from layerdial.errors import UserError
from layerdial.training import checkpoints
from layerdial.utils.files import read_json, write_json, write_text
from layerdial.utils.rows import append_row, read_rows
from layerdial.utils.version import code_version


class RunFolder:
    """Opens a run. Of a distributed run only the first process writes, but each what it had to leave out.

    `reference_weights` is a hash of the reference's: a run does not go on with another teacher under the same name.
    """

    def __init__(self, recipe: Recipe, resume: bool, process: int = 0, reference_weights: str | None = None) -> None:
        self.path = recipe.out
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.writes = process == 0
        self._metrics = self.path / "metrics.jsonl"
        self._rejected_file = self.path / ("rejected.jsonl" if process == 0 else f"rejected-{process}.jsonl")
        self._rejected: set[str] | None = None
        self._board: Any = None
        self._reference_weights = reference_weights
        self.latest = checkpoints.latest(self.checkpoints)
        self._check(recipe, resume)

    def _check(self, recipe: Recipe, resume: bool) -> None:
        meta_file = self.path / "meta.json"
        if not meta_file.is_file():
            return
        if not resume:
            raise UserError(f"{self.path} holds a run already; add --resume to go on, or --set out=ELSEWHERE")
        meta = read_json(meta_file)
        if meta.get("reference_weights", self._reference_weights) != self._reference_weights:
            raise UserError(
                f"--resume: the weights of {recipe.reference} are not those that {self.path} was begun with; "
                "begin anew with --set out=ELSEWHERE"
            )
        if (gone := gone_key(meta["recipe"])) is not None:
            raise UserError(f"--resume: {self.path} was begun with {gone}; begin anew with --set out=ELSEWHERE")
        self._check_own_code(meta.get("own_code", {}), own_code(recipe))
        before, now = with_defaults(meta["recipe"]), recipe.model_dump(mode="json")
        for key, value in now.items():
            for part in value if isinstance(value, dict) else [None]:
                old = before.get(key) if part is None else (before.get(key) or {}).get(part)
                new = value if part is None else value[part]
                if old != new and (key, part) not in _FREE:
                    name = key if part is None else f"{key}.{part}"
                    raise UserError(f"--resume: {self.path} was begun with {name} {old!r}, the recipe now says {new!r}")

    def _check_own_code(self, before: dict[str, str], now: dict[str, str]) -> None:
        """Raise `UserError` if a policy, objective or network of the user's has been changed since the run began."""
        for what in [what for what in now if what in before and before[what] != now[what]]:
            raise UserError(
                f"--resume: {what} has changed since {self.path} was begun; change it back, or begin anew with "
                "--set out=ELSEWHERE"
            )

    def begin(self, recipe: Recipe, step: int, evaluated: bool) -> None:
        """Say what made this run, and drop what a killed run logged after `step`, since those steps come again.

        So does the evaluation of that step, unless it has been `evaluated`.
        """
        if not self.writes:
            return
        write_json(self.path / "meta.json", {**_meta(recipe), "reference_weights": self._reference_weights})
        if self._metrics.is_file():
            rows = [row for row in read_rows(self._metrics) if row["step"] < step + (evaluated or "loss" in row)]
            write_text(self._metrics, "".join(json.dumps(row) + "\n" for row in rows))

    def note_rejected(self, problems: Iterable[Rejected]) -> None:
        """Write down, once for each cut, what could not be used for training."""
        for problem in problems:
            if self._rejected is None:
                there = self._rejected_file.is_file()
                self._rejected = {row["id"] for row in read_rows(self._rejected_file)} if there else set()
            if problem.cut_id not in self._rejected:
                self._rejected.add(problem.cut_id)
                append_row(self._rejected_file, {"id": problem.cut_id, "reason": problem.reason})

    def log(self, row: dict[str, Any]) -> None:
        """Append to metrics.jsonl and to TensorBoard."""
        if not self.writes:
            return
        append_row(self._metrics, row)
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.path / "tensorboard"))
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self._board.add_scalar(name, value, row["step"])

    def is_finished(self, recipe: Recipe) -> bool:
        """Whether the final model is there, made as `recipe` says."""
        meta = self.model / "meta.json"
        if not meta.is_file():
            return False
        before, now = with_defaults(read_json(meta)["recipe"])["train"], recipe.model_dump(mode="json")["train"]
        decides = [key for key in now if ("train", key) not in _FREE or key == "average_best"]
        return all(key in before and before[key] == now[key] for key in decides)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


# how a run is logged, fed and averaged may change, what it computes may not
_FREE: set[tuple[str, str | None]] = {
    *(("train", key) for key in ("log_every", "average_best", "threads")),
    *(("data", key) for key in ("workers", "cache_mb", "posteriors")),
    ("plugins", None),  # where the files are; what they register is compared by itself
}


def _meta(recipe: Recipe) -> dict[str, Any]:
    return {
        "layerdial": layerdial.__version__,
        "commit": code_version(),
        "recipe": recipe.model_dump(mode="json"),
        "own_code": own_code(recipe),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
