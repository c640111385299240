"""Accuracy against training time: the error rate of an entry over time, and when it reached LD's final one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from layerdial.evaluation.plots import add_legend, draw_line, finish_axes, line_styles, new_figure, save_figure
from layerdial.suites.suite import RunKey, Suite
from layerdial.suites.tables import RATES, table
from layerdial.suites.training_record import Point, Trained

_GOALS = ("ld", "ld_long")
Runs = Mapping[str, Mapping[int, Trained]]


@dataclass(frozen=True)
class Reached:
    """The first time that a run reached the goal: updates, its own seconds, and those with its reference and start."""

    updates: int
    seconds: float
    total_seconds: float


def time_report(suite: Suite, finished: Collection[RunKey], picture: Path) -> list[str]:
    """Return the picture and the tables, as parts of the report.

    They are empty before runs with dropped blocks are finished.
    """
    runs = _by_label(suite, finished)
    if not runs:
        return []
    _draw(suite, runs, picture)
    explained = (
        f"Dev {suite.metric.upper()}, mean over depths, against seconds of training without evaluation (runs side by "
        "side share the machine). A time with its start counts the reference and the model that it starts from."
    )
    parts = ["## Training time", explained, f"![error rate against training time]({picture.name})"]
    return parts + [_table(suite, runs, goal) for goal in _GOALS if goal in runs]


def _by_label(suite: Suite, finished: Collection[RunKey]) -> Runs:
    """Return the times of finished runs, by label and seed; only of those measured on dev at several depths."""
    runs: dict[str, dict[int, Trained]] = {}
    for name in suite.methods:
        for seed in suite.seeds_of(name) if suite.select_of(name) != "full" else ():
            trained = Trained.load(suite.folder(name, seed)) if (name, seed) in finished else None
            if trained is not None:
                runs.setdefault(suite.label(name), {})[seed] = trained
    return runs


def points_of(run: Trained) -> list[Point]:
    """Return the evaluations of a run in order, the last that of its final model."""
    return [*run.curve, Point(run.updates, run.train_seconds, run.dev_mean)]


def first_reached(run: Trained, goal: float) -> Reached | None:
    """Return the first evaluation at or below `goal`, a dev error rate, or None."""
    before = run.total_train_seconds - run.train_seconds
    for point in points_of(run):
        if point.dev_mean <= goal:
            return Reached(point.updates, point.train_seconds, before + point.train_seconds)
    return None


def _table(suite: Suite, runs: Runs, goal: str) -> str:
    """Return a table of when each method first reached the dev rate of the goal's model of the same seed.

    Times are given as a share of the goal's time, too.
    """
    lines = []
    for method, seeds in runs.items():
        common = [(seeds[seed], runs[goal][seed]) for seed in seeds if seed in runs[goal]]
        found = [(first_reached(run, ld.dev_mean), ld) for run, ld in common]
        reached = [(when, ld) for when, ld in found if when is not None]
        if not common:
            continue
        if not reached:
            lines.append([method, "never", "", "", "", f"0 of {len(common)}"])
            continue
        lines.append(
            [
                method,
                f"{mean(when.updates for when, _ in reached):,.0f}",
                f"{mean(when.seconds for when, _ in reached):,.0f}",
                f"{mean(when.seconds / ld.train_seconds for when, ld in reached):.2f}",
                f"{mean(when.total_seconds / ld.total_train_seconds for when, ld in reached):.2f}",
                f"{len(reached)} of {len(common)}",
            ]
        )
    text = f"First as good on dev as {goal} at its end, mean over the seeds that got there:"
    headings = ["", "updates", "seconds", f"time / {goal}'s", "the same with their starts", "seeds"]
    return f"{text}\n\n" + table(headings, lines)


def _draw(suite: Suite, runs: Runs, path: Path) -> None:
    """Draw a line a method through the evaluations that all of its seeds have, and a band over the seeds."""
    figure, axes = new_figure()
    drawn = []
    for (method, seeds), style in zip(runs.items(), line_styles(), strict=False):
        by_updates: dict[int, list[Point]] = {}
        for run in seeds.values():
            for point in run.curve:
                by_updates.setdefault(point.updates, []).append(point)
        whole = [points for _, points in sorted(by_updates.items()) if len(points) == len(seeds)]
        rates = [[100 * point.dev_mean for point in points] for points in whole]
        times = [mean(point.train_seconds for point in points) for points in whole]
        low, middle, high = ([pick(some) for some in rates] for pick in (min, mean, max))
        draw_line(axes, times, middle, low, high, label=method, **style)
        drawn += middle
    title = f"{suite.corpus}, dev"
    finish_axes(axes, drawn, title, x="seconds of training", y=f"{RATES[suite.metric]}, mean over depths, %")
    add_legend(axes, "from the best to the worst seed")
    save_figure(figure, path)
