"""Training of an entry of a suite with one seed, rounds of a chain included, and the record of its cost."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from layerdial.config.recipe import Recipe
from layerdial.suites.suite import Metric, Suite
from layerdial.utils.files import replacing, write_json
from layerdial.utils.records import parsing, read_record
from layerdial.utils.rows import Row, read_rows


@dataclass(frozen=True)
class Point:
    """An evaluation on dev: updates, seconds of training, and the mean error rate over depths."""

    updates: int
    train_seconds: float
    dev_mean: float


@dataclass(frozen=True)
class Trained:
    """The training cost of an entry's model. Seconds are of training, without evaluation.

    `updates`, `train_seconds` and `audio_seconds_seen` are those of the chain up to its best round; `updates_spent`
    also has those of the rounds after it. `seconds_of` holds the runs that the model comes from and those of its
    references. `commit` is the code of its last training.
    """

    updates: int
    updates_spent: int
    train_seconds: float
    audio_seconds_seen: float
    dev_mean: float
    round: int = 0
    seconds_of: Mapping[str, float] = field(default_factory=dict)
    curve: Sequence[Point] = ()
    commit: str = ""

    @property
    def total_train_seconds(self) -> float:
        return sum(self.seconds_of.values())

    def save(self, folder: Path) -> None:
        write_json(folder / "trained.json", asdict(self))

    @classmethod
    def load(cls, folder: Path) -> Trained | None:
        """Return the record in the folder of a finished training, or None if it is not finished."""
        if not (folder / "trained.json").is_file():
            return None
        file, remedy = folder / "trained.json", "remove it, and this entry is trained again"
        stored = read_record(file, remedy)
        with parsing(file, remedy):
            points = tuple(
                Point(int(p["updates"]), float(p["train_seconds"]), float(p["dev_mean"])) for p in stored["curve"]
            )
            seconds = {str(run): float(value) for run, value in stored["seconds_of"].items()}
            done = cls(**{**stored, "curve": points, "seconds_of": seconds})
            numbers = done.updates, done.updates_spent, done.train_seconds, done.audio_seconds_seen, done.dev_mean
            if not all(isinstance(number, int | float) for number in (*numbers, done.round)):
                raise TypeError(f"numbers are {numbers}")
        return done


def train_entry(suite: Suite, name: str, seed: int, commit: str = "") -> Trained:
    """Train what is not trained yet, with the code of `commit`. The model is then in `suite.model(name, seed)`."""
    folder = suite.folder(name, seed)
    done = Trained.load(folder)
    if done is None:
        if suite.methods[name].continues is None:
            run = _train(suite.recipe_of(name, seed), suite.metric)
            done = replace(run, seconds_of={**_ancestors(suite, name, seed), **run.seconds_of})
        else:
            done = _train_chain(suite, name, seed)
        done = replace(done, commit=commit)
        done.save(folder)
    for checkpoints in (*folder.glob("checkpoints"), *folder.glob("round-*/checkpoints")):
        shutil.rmtree(checkpoints, ignore_errors=True)
    return done


def _train(recipe: Recipe, metric: Metric) -> Trained:
    """Train one run from its start or its last checkpoint."""
    from layerdial.training.loop import train

    model = train(recipe, resume=True)
    meta = read_record(model / "meta.json", "train it again with --fresh")
    rows = with_train_seconds(read_rows(recipe.out / "metrics.jsonl"))
    points = [
        Point(int(row["step"]), row["train_seconds"], mean)
        for row in rows
        if (mean := dev_mean(row, metric)) is not None
    ]
    seconds = float(meta.get("train_seconds") or rows[-1]["train_seconds"])
    mean = dev_mean(read_record(recipe.out / "dev.json", "train it again with --fresh"), metric)
    assert mean is not None
    audio_seconds = float(meta["audio_seconds_seen"])
    steps = recipe.train.steps
    return Trained(steps, steps, seconds, audio_seconds, mean, 0, {str(recipe.out): seconds}, tuple(points))


def _train_chain(suite: Suite, name: str, seed: int) -> Trained:
    """Train round after round, each from the one before, until dev no longer improves; keep the best round's model."""
    entry = suite.methods[name]
    assert entry.continues is not None
    start = _existing(suite, entry.continues, seed)
    best = current = replace(start, round=0, seconds_of=_ancestors(suite, name, seed))
    for round_ in range(1, _most_rounds(suite, name, seed) + 1):
        before = current
        recipe = suite.recipe_of(name, seed, round_)
        current = _after(before, _train(recipe, suite.metric), round_)
        if current.dev_mean < best.dev_mean:
            best = current
        if current.dev_mean > before.dev_mean * (1 - entry.min_gain):
            break
    chosen = (
        suite.folder(name, seed) / f"round-{best.round}/model" if best.round else suite.model(entry.continues, seed)
    )
    with replacing(suite.model(name, seed)) as temporary:
        shutil.copytree(chosen, temporary, ignore=shutil.ignore_patterns("search.jsonl"))
    return replace(best, updates_spent=current.updates, curve=current.curve)


def _most_rounds(suite: Suite, name: str, seed: int) -> int:
    like = suite.methods[name].rounds_like
    return suite.rounds(name) if like is None else _existing(suite, like, seed).round


def _after(before: Trained, run: Trained, round_: int) -> Trained:
    """Return the record of a chain with one round more."""
    later = [
        Point(before.updates + point.updates, before.train_seconds + point.train_seconds, point.dev_mean)
        for point in run.curve
    ]
    return Trained(
        before.updates + run.updates,
        before.updates_spent + run.updates_spent,
        before.train_seconds + run.train_seconds,
        before.audio_seconds_seen + run.audio_seconds_seen,
        run.dev_mean,
        round_,
        {**before.seconds_of, **run.seconds_of},
        (*before.curve, *later),
    )


def _ancestors(suite: Suite, name: str, seed: int) -> dict[str, float]:
    """Return the seconds of the runs of an entry's reference and initial model, each once, by folder."""
    seconds: dict[str, float] = {}
    for other in suite.needs(name):
        if other != suite.methods[name].rounds_like:
            seconds |= _existing(suite, other, seed).seconds_of
    return seconds


def _existing(suite: Suite, name: str, seed: int) -> Trained:
    done = Trained.load(suite.folder(name, seed))
    assert done is not None, f"{name} with seed {seed} comes before those that need it"
    return done


def dev_mean(row: Mapping[str, Any], metric: Metric) -> float | None:
    """Return the mean over depths of the dev figures in a row, or None where it has none."""
    values = [float(value) for key, value in row.items() if key.startswith(f"dev_{metric}_at_")]
    return sum(values) / len(values) if values else None


def with_train_seconds(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of metrics.jsonl, each with `train_seconds` so far.

    Runs of earlier versions did not log it. There it is the audio between log lines divided by the logged speed.
    """
    seconds = audio = 0.0
    found = []
    for row in rows:
        if (speed := row.get("audio_seconds_per_second")) is not None:
            seconds += (row["audio_seconds"] - audio) / speed
            audio = row["audio_seconds"]
        found.append({"train_seconds": seconds, **row})
    return found
