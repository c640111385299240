"""The runs of a suite that are left, and a check that earlier ones were made with the suite's present settings."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from layerdial.config.old_keys import gone_key, upgraded
from layerdial.config.recipe import own_code
from layerdial.errors import UserError
from layerdial.suites.rows import all_rows, missing_rows
from layerdial.suites.run_one import run_job
from layerdial.suites.suite import Origin, RunKey, Suite
from layerdial.utils.files import contents
from layerdial.utils.records import parsing, read_record
from layerdial.utils.version import code_version
from layerdial.utils.workers import Job


def plan(suite: Suite) -> dict[RunKey, Origin]:
    """Return every run of a suite, those that others need first, with what determines its result.

    The order is seed after seed, so that methods can be compared early. Raises `UserError` if data is missing.
    """
    tests = {test: contents(cuts) for test, cuts in suite.test.items()}
    commit = code_version()
    order = suite.order()
    seeds = dict.fromkeys(seed for name in order for seed in suite.seeds_of(name))
    runs = [(name, seed) for seed in seeds for name in order if seed in suite.seeds_of(name)]
    return {run: Origin(commit, asked_for(suite, *run), asked_for(suite, *run, brief=True), tests) for run in runs}


def asked_for(suite: Suite, name: str, seed: int, brief: bool = False) -> dict[str, Any]:
    """Return what determines the result of a run: its recipe without mere locations, its rounds, its data.

    With `brief`, keys at their default are left out, so that a key that recipes get later changes nothing.
    """
    entry = suite.methods[name]
    recipe = suite.recipe_of(name, seed)
    key = recipe.model_dump(mode="json", exclude={"out", "plugins"}, exclude_defaults=brief)
    for part, keys in _WITHOUT_EFFECT.items():
        for unimportant in keys:
            key[part].pop(unimportant, None)
    own = {str(suite.model(other, seed)): f"the model of {other}" for other in suite.needs(name)}
    starts = {part: key[part] for part in ("reference", "init") if part in key}
    key |= {part: own.get(path, path) for part, path in starts.items()}
    asked: dict[str, Any] = {
        "recipe": key,
        "training data": contents(recipe.data.train),
        "dev data": contents(recipe.data.dev),
    }
    if own := own_code(recipe):
        asked["own code"] = own
    if entry.continues is not None:
        chain = "continues", "rounds", "rounds_like", "min_gain"
        asked |= {part: getattr(entry, part) for part in chain} | {"metric": suite.metric}
    if not brief:
        named = {part: path for part, path in starts.items() if path not in (None, "scratch", "reference", *own)}
        folders = {part: Path(path) for part, path in named.items() if Path(path).is_dir()}
        asked["models from outside"] = {part: _weights(path, _changed(path)) for part, path in folders.items()}
    return asked


_WITHOUT_EFFECT = {"data": ("train", "dev", "workers", "cache_mb", "read_timeout"), "train": ("threads", "log_every")}


def refuse_changed(suite: Suite, runs: Mapping[RunKey, Origin]) -> None:
    """Raise `UserError` for the first run that was begun with other settings."""
    for (name, seed), origin in runs.items():
        file = suite.folder(name, seed) / "asked.json"
        if not file.is_file():
            continue
        remedy = f"remove these runs with --fresh {name}"
        before = read_record(file, remedy)
        with parsing(file, remedy):
            gone = gone_key(before["recipe"])
            before["recipe"] = upgraded(before["recipe"]) if gone is None else {}
            outside = "models from outside"  # one that no longer exists is reported when it is needed
            before[outside] = {
                part: found for part, found in before.get(outside, {}).items() if part in origin.asked[outside]
            }
        if gone is not None:
            raise UserError(f"{suite.folder(name, seed)} was begun with {gone}; {remedy}")
        difference = _first_difference(before, origin.asked, origin.asked_briefly)
        if difference is not None:
            raise UserError(
                f"{suite.folder(name, seed)} was begun with {difference}; change it back, or remove these runs "
                f"with --fresh {name}"
            )


def _first_difference(before: Any, now: Any, brief: Any, path: str = "") -> str | None:
    """Return the first key that differs, with both values, or None. A key that is new in recipes may be at its default.

    `brief` is `now` without defaults.
    """
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return None if before == now else f"{path} {before!r}, now {now!r}"
    brief = brief if isinstance(brief, Mapping) else {}
    for key in dict.fromkeys([*now, *before]):
        if key not in before and key not in brief:
            continue
        found = _first_difference(before.get(key), now.get(key), brief.get(key), f"{path}.{key}" if path else key)
        if found is not None:
            return found
    return None


def choose(suite: Suite, runs: Iterable[RunKey], names: Sequence[str], seeds: Sequence[int]) -> set[RunKey]:
    """Return the runs of the given entries and seeds; none given means all. Raises `UserError` for an unknown one."""
    check_names(suite, "--only", names)
    named = [run for run in runs if not names or run[0] in names]
    there = sorted({seed for _, seed in named})
    for seed in seeds:
        if seed not in there:
            raise UserError(f"--seed {seed}: seeds are {', '.join(map(str, there))}")
    return {run for run in named if not seeds or run[1] in seeds}


def check_names(suite: Suite, option: str, names: Sequence[str]) -> None:
    """Raise `UserError` for the first name that is no entry of the suite."""
    for name in names:
        if name not in suite.methods:
            raise UserError(f"{option} {name}: methods are {', '.join(suite.methods)}")


def jobs_left(suite: Suite, runs: Mapping[RunKey, Origin], chosen: Collection[RunKey]) -> list[Job]:
    """Return a job for each chosen run with missing rows, and for each missing model that those need."""
    rows = all_rows(suite)
    left = {run for run in chosen if missing_rows(suite, run, runs[run], rows)}
    for name, seed in reversed(list(runs)):  # runs that need a run come after it
        if (name, seed) in left:
            needed = [(other, seed) for other in suite.needs(name)]
            left |= {run for run in needed if not _is_there(suite, run)}
    return [_job(suite, run, origin, left) for run, origin in runs.items() if run in left]


def _is_there(suite: Suite, run: RunKey) -> bool:
    """Return whether a run's model is trained and, where its ladder is searched, has it."""
    has_ladder = suite.select_of(run[0]) != "search" or (suite.model(*run) / "ladder.json").is_file()
    return has_ladder and (suite.folder(*run) / "trained.json").is_file()


def _job(suite: Suite, run: RunKey, origin: Origin, left: set[RunKey]) -> Job:
    name, seed = run
    folder, rounds = suite.folder(name, seed), suite.rounds(name)
    return Job(
        name=_title(name, seed),
        function=run_job,
        arguments=(suite, name, seed, origin),
        log=folder / "log",
        steps=suite.recipe_of(name, seed).train.steps * max(1, rounds),
        runs=tuple(folder / f"round-{number}" for number in range(1, rounds + 1)) or (folder,),
        needs=frozenset(_title(other, seed) for other in suite.needs(name) if (other, seed) in left),
    )


def _title(name: str, seed: int) -> str:
    return f"{name} seed {seed}"


@cache
def _weights(folder: Path, changed: int) -> str:
    """Return the fingerprint of a model's weights, so that a model retrained under the same name is noticed."""
    from layerdial.models.checkpoint import fingerprint

    return fingerprint(folder)


def _changed(folder: Path) -> int:
    return max((file.stat().st_mtime_ns for file in folder.iterdir()), default=0)
