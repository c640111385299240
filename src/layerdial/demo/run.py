"""The demo: four models trained from synthetic speech, compared at every depth, in minutes on two CPU cores."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdial.config.recipe import Recipe, load_recipe, with_defaults
from layerdial.demo.card import NAMES, WORDS, write_card
from layerdial.errors import UserError
from layerdial.evaluation.latency import Timing
from layerdial.evaluation.load import load_model
from layerdial.ladder import select_all
from layerdial.utils.files import model_name
from layerdial.utils.progress import progress
from layerdial.utils.records import parsing, read_record

if TYPE_CHECKING:
    from layerdial.cost import Cost
    from layerdial.data.manifest import CorpusReport
    from layerdial.recognizer import Recognizer
    from layerdial.subset import Blocks
    from layerdial.utils.rows import Row
    from layerdial.utils.workers import Job

METHODS = ("reference", "ld", "dld", "sc_exits")
SHOWN = "sc_exits"  # transcribes at the demo's end
TITLE = "Spoken digits and commands, by voices that are not in training"
_LONGEST_FIRST = ("reference", "sc_exits", "dld", "ld")  # so that both cores are busy to the end
_NEEDS = {"ld": frozenset({"reference"}), "dld": frozenset({"reference"})}
_TIMING_S = 10.0  # of all models together


def run_demo(out: Path) -> None:
    """Synthesise, train, search, sweep, draw, write cards, transcribe; an interrupted demo continues where it stopped.

    Raises `UserError` when a model in `out` was trained by another recipe, and when a training cannot be continued.
    """
    began = time.monotonic()
    _check_models(out)
    _say("1/4  speech: connected digits and commands, read by synthetic voices")
    corpus = _speak(out / "cuts")
    _say("2/4  training, two methods at a time; then the blocks of every depth, chosen on dev")
    _run_side_by_side(_jobs_left(out))
    _say("3/4  test: every depth of every method")
    rows = _sweep(out)
    _draw(rows, out / "sweep.png")
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        write_card(out / method / "model", method, own, corpus, _transcribe_command("layerdial", method, out))
    _say(f"4/4  the same clips at three depths, by {NAMES[SHOWN]}")
    _transcribe_clips(out)
    _summary(rows, out, time.monotonic() - began)


def demo_recipe(method: str, out: Path) -> Recipe:
    """Return the recipe that ships with the package, with its paths below `out`."""
    paths = [
        f"out={out / method}",
        f"data.train={out / 'cuts' / 'train.cuts.jsonl.gz'}",
        f"data.dev={out / 'cuts' / 'dev.cuts.jsonl.gz'}",
    ]
    if method in _NEEDS:
        paths.append(f"reference={out / 'reference' / 'model'}")
    with as_file(files("layerdial") / "demo" / "recipes" / f"{method.replace('_', '-')}.yaml") as recipe:
        return load_recipe(recipe, paths)


def _check_models(out: Path) -> None:
    """Raise `UserError` if a finished model was trained by another recipe: its figures would not be this demo's."""
    for method in METHODS:
        meta = out / method / "model" / "meta.json"
        if not meta.is_file():
            continue
        asked, remedy = demo_recipe(method, out).model_dump(mode="json"), "remove it and start the demo again"
        with parsing(meta, remedy):
            stored = with_defaults(read_record(meta, remedy)["recipe"])
        differ = [key for key in asked if key not in ("out", "reference", "data") and stored.get(key) != asked[key]]
        if differ:
            raise UserError(
                f"{out / method} was trained by another recipe than this demo's ({', '.join(differ)}); "
                f"remove {out}, or choose another folder by --out"
            )


def _speak(cuts: Path) -> CorpusReport:
    from layerdial.data.synthesis.demo_corpus import prepare_demo

    with progress("speak", None) as update:
        return prepare_demo(cuts, progress=lambda done, total: update(done, total=total))


# ------------------------------------------------------------------------------------------- training and search


def _jobs_left(out: Path) -> list[Job]:
    """Return a job for each training and each ladder search that is not done; a search counts as one step."""
    from layerdial.utils.workers import Job

    models = {method: out / method / "model" for method in _LONGEST_FIRST}
    training = [method for method in models if not (models[method] / "model.safetensors").is_file()]
    searching = [method for method in models if not (models[method] / "ladder.json").is_file()]
    jobs = []
    for method in training:
        recipe = demo_recipe(method, out)
        needs = _NEEDS.get(method, frozenset()) & set(training)
        jobs.append(Job(method, _train, (recipe,), out / f"{method}.log", recipe.train.steps, (recipe.out,), needs))
    dev = out / "cuts" / "dev.cuts.jsonl.gz"
    for method in searching:
        needs = frozenset({method}) & set(training)
        log = out / f"search-{method}.log"
        jobs.append(Job(f"search {method}", _search, (models[method], dev), log, steps=1, needs=needs))
    return jobs


def _run_side_by_side(jobs: Sequence[Job]) -> None:
    """Run jobs two at a time, a thread each: two networks of this size on a core each are faster than one on two."""
    from layerdial.utils.jobs import run_jobs

    if not jobs:
        return
    failures = run_jobs(jobs, 2, "train and search", threads=1)
    if failures:
        failure = failures[0]
        kind = UserError if failure.users_mistake else RuntimeError
        raise kind(f"{failure.job.name} failed: {failure.message}; more in {failure.job.log}")
    for job in jobs:
        job.log.unlink()


def _train(recipe: Recipe) -> None:
    from layerdial.training.loop import train

    train(recipe, resume=True)


def _search(model: Path, dev: Path) -> None:
    """Search the ladder of a model; one that was trained on one subset a depth has its ladder already."""
    from layerdial.data.batching import FeatureBatches
    from layerdial.evaluation.run import search_model
    from layerdial.models.conformer_ctc import ConformerCTC

    if not (model / "ladder.json").is_file():
        search_model(model, dev, batches=FeatureBatches(dev, ConformerCTC.features, workers=0, by_length=True))


# ---------------------------------------------------------------------------------------------------------- test


def _sweep(out: Path) -> list[Row]:
    """Measure every method at every depth on test; features are computed once, and latency is measured in one turn."""
    from layerdial.data.batching import FeatureBatches
    from layerdial.evaluation.run import sweep_model
    from layerdial.models.conformer_ctc import ConformerCTC

    test = out / "cuts" / "test.cuts.jsonl.gz"
    batches = FeatureBatches(test, ConformerCTC.features, by_length=True)
    timing = SharedTiming([out / method / "model" for method in METHODS])
    rows: list[Row] = []
    for method in METHODS:
        model = out / method / "model"
        rows += sweep_model(model, test, None, "ladder", out, method, timing=timing, batches=batches)
    return rows


class SharedTiming:
    """The `timing` of several sweeps: all ladders of all models take turns, once, when the first sweep needs it.

    Subsets with the same parameters and multiply-accumulates take the same time. So each subset of a shape is timed
    with one model; in the rows of the others `timed_with` names it.
    """

    def __init__(self, models: Sequence[Path]) -> None:
        self._models = models
        self._rows: dict[tuple[Blocks, Cost], Row] = {}

    def __call__(self, recognizer: Recognizer, subsets: Sequence[Blocks]) -> list[Row]:
        if subsets and not self._rows:
            self._measure()
        own = model_name(Path(recognizer.name))
        rows = [self._rows[subset, recognizer.cost(subset)] for subset in subsets]
        return [{key: value for key, value in row.items() if (key, value) != ("timed_with", own)} for row in rows]

    def _measure(self) -> None:
        passes: dict[tuple[Blocks, Cost], tuple[Recognizer, Blocks]] = {}
        models: list[Recognizer] = [load_model(path) for path in self._models]
        for model in models:
            for subset in select_all("ladder", None, model.n_blocks, model.ladder):
                passes.setdefault((subset, model.cost(subset)), (model, subset))
        times = Timing(budget_s=_TIMING_S).in_turns(list(passes.values()))
        for (key, (model, _)), row in zip(passes.items(), times, strict=True):
            self._rows[key] = row | {"timed_with": model_name(Path(model.name))}


def _draw(rows: Sequence[Row], picture: Path) -> None:
    from layerdial.evaluation.plots import draw_sweep

    draw_sweep([{**row, "method": f"{NAMES[row['method']]} ({row['method']})"} for row in rows], picture, TITLE)


# ------------------------------------------------------------------------------------------------------ the end


def _transcribe_clips(out: Path) -> None:
    from itertools import islice

    from layerdial.data.manifest import cut_text, open_cuts

    model = load_model(out / SHOWN / "model")
    n_blocks = model.n_blocks
    for cut in islice(open_cuts(out / "cuts" / "test.cuts.jsonl.gz"), 3):
        path = cut.recording.sources[0].source
        print(f"\n{path}\n  said     : {cut_text(cut)}")
        for depth in (n_blocks, n_blocks // 2, max(1, n_blocks // 4)):
            print(f"  {depth} of {n_blocks}   : {model.transcribe(path, depth=depth).text}")


def _summary(rows: Sequence[Row], out: Path, seconds: float) -> None:
    from rich.console import Console

    from layerdial.evaluation.tables import compare_table

    dropping = [row for row in rows if row["method"] != "reference"]
    Console().print("\n", _wer_table(rows), "\n", compare_table(dropping, "ld", out))
    print("\n".join(f"{name:<10} {NAMES[name]}" for name in METHODS))
    print("\n" + textwrap.fill(f"The models know {WORDS}", 80))
    folders = "/ ".join(METHODS)
    print(f"\neverything is in {out} ({seconds / 60:.1f} minutes)")
    print(f"  {folders}/  a run each, the model in model/ with its card (README.md)")
    print("  cuts/        the manifests and the audio")
    print("  sweep.jsonl  one row a method and depth")
    print("  sweep.png    WER against multiply-accumulates: open it")
    print(f"next: {_transcribe_command(_program(), SHOWN, out)}")


def _wer_table(rows: Sequence[Row]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(
        title="WER in % (95 % interval) on test", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.add_column("blocks", justify="right")
    for method in METHODS:
        table.add_column(method, justify="right", no_wrap=True)
    for depth in sorted({row["depth"] for row in rows}):
        cells = {row["method"]: row for row in rows if row["depth"] == depth}
        table.add_row(str(depth), *(_cell(cells[method]) for method in METHODS))
    return table


def _cell(row: Row) -> str:
    return f"{100 * row['wer']:.1f} ({100 * row['wer_low']:.1f}-{100 * row['wer_high']:.1f})"


def _program() -> str:
    """Return what runs layerdial in this shell: its name if that is on the path, else where it was started from."""
    return "layerdial" if shutil.which("layerdial") else os.path.relpath(sys.argv[0])


def _transcribe_command(program: str, method: str, out: Path) -> str:
    """Return the command line that transcribes a clip of the test set with two blocks of a method's model."""
    clip = out / "cuts" / "audio" / "test" / "test-00000.flac"
    return shlex.join([program, "transcribe", str(out / method / "model"), str(clip), "--depth", "2"])


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)
