"""The demo: from nothing to a dynamic recogniser and its curve, in minutes on two CPU cores."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from layerdial.config import Recipe, load_recipe
from layerdial.errors import UserError
from layerdial.progress import progress

METHODS = ("reference", "ld", "sc_exits")
_NEEDS = {"ld": frozenset({"reference"})}
TITLE = "Spoken digits and commands, voices not heard in training"


def run_demo(out: Path) -> None:
    """Synthesise, train every method, search, sweep, draw, transcribe; interrupted, it goes on."""
    from layerdial.actions import search_model, sweep_model
    from layerdial.data.batching import FeatureBatches
    from layerdial.data.synth import prepare_demo
    from layerdial.models.conformer_ctc import ConformerCTC
    from layerdial.sweep import Timing

    began = time.monotonic()
    cuts = out / "cuts"
    _say("1/5  speech: connected digits and commands, read by synthetic voices")
    with progress("speak", None) as update:
        prepare_demo(cuts, progress=lambda done, total: update(done, total=total))
    _say("2/5  training: self-conditioned exits; beside it a reference, then layer dropping from there")
    _train_side_by_side([method for method in METHODS if not _is_trained(out / method)], out)
    _say("3/5  ladders: the best blocks for every depth, chosen on dev")
    for method in METHODS:
        if not (out / method / "model" / "ladder.json").is_file():
            search_model(out / method / "model", cuts / "dev.cuts.jsonl.gz")
    _say("4/5  test: every depth of every method")
    test = cuts / "test.cuts.jsonl.gz"
    batches = FeatureBatches(test, ConformerCTC.features)
    rows: list[dict[str, Any]] = []
    for method in METHODS:
        rows += sweep_model(
            out / method / "model", test, None, "ladder", out, method, timing=Timing(budget_s=4), batches=batches
        )
    _redraw(rows, out)
    _say("5/5  the same clips at three depths")
    _transcribe_clips(out, test)
    _summary(rows, out, time.monotonic() - began)


def demo_recipe(method: str, out: Path) -> Recipe:
    """The recipe that ships with the package, with its paths below `out`."""
    paths = [
        f"out={out / method}",
        f"data.train={out / 'cuts' / 'train.cuts.jsonl.gz'}",
        f"data.dev={out / 'cuts' / 'dev.cuts.jsonl.gz'}",
    ]
    if method in _NEEDS:
        paths.append(f"reference={out / 'reference' / 'model'}")
    with as_file(files("layerdial") / "demo_recipes" / f"{method.replace('_', '-')}.yaml") as recipe:
        return load_recipe(recipe, paths)


def _train_side_by_side(methods: Sequence[str], out: Path) -> None:
    """Train in a process each, two at a time: two networks of this size on a core each are faster than one on two."""
    from layerdial.bench.jobs import run_jobs
    from layerdial.bench.workers import Job

    jobs = []
    for method in methods:
        recipe = demo_recipe(method, out)
        needs = _NEEDS.get(method, frozenset()) & set(methods)
        jobs.append(Job(method, _train, (recipe,), out / f"{method}.log", recipe.train.steps, (recipe.out,), needs))
    failures = run_jobs(jobs, 2, f"train {', '.join(methods)}")
    if failures:
        failure = failures[0]
        kind = UserError if failure.users_mistake else RuntimeError
        raise kind(f"training {failure.job.name} failed: {failure.message}; more in {failure.job.log}")
    for job in jobs:
        job.log.unlink()


def _train(recipe: Recipe) -> None:
    from layerdial.training.loop import train

    train(recipe, resume=True)


def _is_trained(run: Path) -> bool:
    return (run / "model" / "model.safetensors").is_file()


def _redraw(rows: list[dict[str, Any]], out: Path) -> None:
    from layerdial.picture import draw_sweep

    names = {
        "reference": "reference, blocks left out untrained",
        "ld": "layer dropping",
        "sc_exits": "self-conditioned exits",
    }
    draw_sweep([{**row, "method": names[row["method"]]} for row in rows], out / "sweep.png", TITLE)


def _transcribe_clips(out: Path, test: Path) -> None:
    from itertools import islice

    from layerdial.data.manifest import cut_text, open_cuts
    from layerdial.load import load_model

    model = load_model(out / "sc_exits" / "model")
    n_blocks = model.n_blocks
    for cut in islice(open_cuts(test), 3):
        path = cut.recording.sources[0].source
        print(f"\n{path}\n  said     : {cut_text(cut)}")
        for depth in (n_blocks, n_blocks // 2, max(1, n_blocks // 4)):
            print(f"  {depth} of {n_blocks}   : {model.transcribe(path, depth=depth).text}")


def _summary(rows: list[dict[str, Any]], out: Path, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    from layerdial.report import compare_table

    table = Table(title="WER in % (95 % interval) on test", title_justify="left")
    table.add_column("blocks", justify="right")
    for method in METHODS:
        table.add_column(method, justify="right")
    for depth in sorted({row["depth"] for row in rows}):
        cells = {row["method"]: row for row in rows if row["depth"] == depth}
        table.add_row(str(depth), *(_cell(cells[method]) for method in METHODS))
    Console().print("\n", table, "\n", compare_table([row for row in rows if row["method"] != "reference"], "ld", out))
    print(f"\neverything is in {out} ({seconds / 60:.1f} minutes)")
    print("  reference/ ld/ sc_exits/  a run each, the model in model/ with its ladder.json")
    print("  cuts/                 the manifests and the audio")
    print("  sweep.jsonl           one row a method and depth")
    print("  sweep.png             WER against multiply-accumulates: open it")
    command = "layerdial" if shutil.which("layerdial") else os.path.relpath(sys.argv[0])
    print(f"next: {command} transcribe {out}/sc_exits/model {out}/cuts/audio/test/*.flac --depth 2")


def _cell(row: dict[str, Any]) -> str:
    return f"{100 * row['wer']:.1f} ({100 * row['wer_low']:.1f}-{100 * row['wer_high']:.1f})"


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)
