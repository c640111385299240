"""The folder of a run: meta.json, metrics.jsonl, TensorBoard events, checkpoints/, model/."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import layerdial
from layerdial.config.old_keys import gone_key
from layerdial.config.recipe import Recipe, own_code, with_defaults
from layerdial.data.manifest import Rejected
from layerdial.errors import UserError
from layerdial.training import checkpoints
from layerdial.utils.files import read_json, write_json, write_text
from layerdial.utils.locks import holding
from layerdial.utils.records import read_record
from layerdial.utils.rows import append_row, read_rows
from layerdial.utils.version import code_version

_log = logging.getLogger(__name__)


class RunFolder:
    """Opens a run. Of a distributed run only the first process writes, but each what it had to leave out.

    `inputs` are hashes of what the recipe's paths lead to, by the keys of the recipe: a run goes on with the same
    corpus, teacher and vocabulary under other names, and not with others under the same names.
    """

    def __init__(
        self,
        recipe: Recipe,
        resume: bool,
        process: int = 0,
        inputs: Mapping[str, str] | None = None,
        processes: int = 1,
    ) -> None:
        self.path = recipe.out
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.writes = process == 0
        self._metrics = self.path / "metrics.jsonl"
        self._rejected_file = self.path / ("rejected.jsonl" if process == 0 else f"rejected-{process}.jsonl")
        self._rejected: set[str] | None = None
        self._board: Any = None
        self._begun_at = 0
        self._inputs = dict(inputs or {})
        self._processes = processes
        checkpoints.put_back(self.checkpoints)
        self.latest = checkpoints.latest(self.checkpoints)
        self._check(recipe, resume)

    def _check(self, recipe: Recipe, resume: bool) -> None:
        meta_file = self.path / "meta.json"
        if not meta_file.is_file():
            if found := self._parts():
                raise UserError(
                    f"{self.path} holds {' and '.join(found)} of a run, but no meta.json, which says what it was; "
                    "put that back, or begin anew with --set out=ELSEWHERE"
                )
            return
        if not resume:
            raise UserError(f"{self.path} holds a run already; add --resume to go on, or --set out=ELSEWHERE")
        meta = read_record(meta_file, "put back the file that was there")
        if not isinstance(meta.get("recipe"), dict):
            raise UserError(f"{meta_file} is damaged (it holds no recipe); put back the file that was there")
        self._check_inputs(recipe, meta)
        self._check_recipe(recipe, meta)
        if self.latest is None:
            self._check_start(recipe)
        elif checkpoints.step_of(self.latest) < recipe.train.steps:
            self._check_processes(meta.get("processes", self._processes))

    def _parts(self) -> list[str]:
        """Return the names of the parts of a run that are there."""
        there = {
            "checkpoints": checkpoints.any_stored(self.checkpoints),
            "metrics.jsonl": self._metrics.is_file(),
            "a model": (self.model / "meta.json").is_file(),
        }
        return [name for name, found in there.items() if found]

    def _check_inputs(self, recipe: Recipe, meta: Mapping[str, Any]) -> None:
        before: dict[str, Any] = {"reference": meta.get("reference_weights"), **meta.get("inputs", {})}
        for key, found in self._inputs.items():
            if before.get(key) not in (None, found):
                what = "the weights" if key in ("reference", "init") else "the contents"
                raise UserError(
                    f"--resume: {what} of {_value(recipe.model_dump(mode='json'), key)} are not those that {self.path} "
                    f"was begun with ({key}); begin anew with --set out=ELSEWHERE"
                )

    def _check_recipe(self, recipe: Recipe, meta: Mapping[str, Any]) -> None:
        """Raise `UserError` for a key that has changed; a path may change where the hash of its contents is known."""
        if (gone := gone_key(meta["recipe"])) is not None:
            raise UserError(f"--resume: {self.path} was begun with {gone}; begin anew with --set out=ELSEWHERE")
        self._check_own_code(meta.get("own_code", {}), own_code(recipe))
        before, now = with_defaults(meta["recipe"]), recipe.model_dump(mode="json")
        known = {"reference", *meta.get("inputs", {})} & self._inputs.keys()
        for key, value in now.items():
            for part in value if isinstance(value, dict) else [None]:
                name = key if part is None else f"{key}.{part}"
                old, new = _value(before, name), _value(now, name)
                if (
                    old != new
                    and key != "out"
                    and (key, part) not in _FREE
                    and not (name in known and _same_kind(old, new))
                ):
                    raise UserError(f"--resume: {self.path} was begun with {name} {old!r}, the recipe now says {new!r}")

    def _check_processes(self, before: int) -> None:
        """Raise `UserError` for another number of processes: each takes a batch, so all together another one."""
        if before != self._processes:
            raise UserError(
                f"--resume: {self.path} was begun with {_processes(before)}, each with a batch of its own, and "
                f"{_processes(self._processes)} would make another batch; start {before}, or begin anew with "
                "--set out=ELSEWHERE"
            )

    def _check_own_code(self, before: dict[str, str], now: dict[str, str]) -> None:
        """Raise `UserError` if a policy, objective or network of the user's has been changed since the run began."""
        for what in [what for what in now if what in before and before[what] != now[what]]:
            raise UserError(
                f"--resume: {what} has changed since {self.path} was begun; change it back, or begin anew with "
                "--set out=ELSEWHERE"
            )

    def _check_start(self, recipe: Recipe) -> None:
        """Log that the run begins at step 0. Raises `UserError` if a checkpoint was written that is gone."""
        rows = read_rows(self._metrics)
        steps = [int(row["step"]) for row in rows]
        evaluated = any("loss" not in row for row in rows)
        if evaluated or max(steps, default=0) > recipe.train.eval_every or set(self._parts()) - {"metrics.jsonl"}:
            raise UserError(
                f"--resume: {self.path} was trained for {max(steps, default=0)} steps, but no checkpoint to go on from "
                f"is in {self.checkpoints}; put it back, or begin anew with --set out=ELSEWHERE"
            )
        if rows and self.writes:
            _log.warning(
                "%s: no checkpoint was written in its %d steps; it begins at step 0 again", self.path, max(steps)
            )

    def begin(self, recipe: Recipe, step: int, evaluated: bool) -> None:
        """Say what made this run, and drop what a killed run logged after `step`, since those steps come again.

        So does the evaluation of that step, unless it has been `evaluated`.
        """
        if not self.writes:
            return
        self._begun_at = step
        inputs = {"reference_weights": self._inputs.get("reference"), "inputs": self._inputs}
        write_json(self.path / "meta.json", {**_meta(recipe), **inputs, "processes": self._processes})
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
            self._open_board(row)
        self._draw(row)

    def _open_board(self, first: Mapping[str, Any]) -> None:
        """Open TensorBoard's events; what it has of this step and later ones is replaced by what metrics.jsonl has."""
        from torch.utils.tensorboard import SummaryWriter

        folder = self.path / "tensorboard"
        self._board = SummaryWriter(str(folder), purge_step=self._begun_at if folder.is_dir() else None)
        for row in read_rows(self._metrics):
            if row["step"] >= self._begun_at and row != first:
                self._draw(row)

    def _draw(self, row: Mapping[str, Any]) -> None:
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


# where it lies, how a run is logged, fed and averaged may change, what it computes may not
_FREE: set[tuple[str, str | None]] = {
    *(("train", key) for key in ("log_every", "average_best", "threads")),
    *(("data", key) for key in ("workers", "cache_mb", "posteriors", "read_timeout")),
    ("plugins", None),  # where the files are; what they register is compared by itself
}


def holding_run(folder: Path) -> AbstractContextManager[None]:
    """Hold the folder of a run: no other process trains in it. Of a distributed run the first does, for all."""
    if os.environ.get("RANK", "0") != "0":
        return nullcontext()
    return holding(folder, "the run in", "wait for its end, or choose another place with --set out=ELSEWHERE")


def _processes(count: int) -> str:
    return "one process" if count == 1 else f"{count} processes"


def _value(recipe: Mapping[str, Any], name: str) -> Any:
    """Return the value of a key of a recipe, or of a key in a section; None where it is not there."""
    key, _, part = name.partition(".")
    return (recipe.get(key) or {}).get(part) if part else recipe.get(key)


def _same_kind(old: Any, new: Any) -> bool:
    """Whether two values both lead to something, and so can be two names of it."""
    words = (None, "scratch", "reference")
    return old not in words and new not in words


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
