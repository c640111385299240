"""`layerdial demo` and `layerdial bench`: comparisons of methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from layerdial.cli.options import ThreadsOption


def demo(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/demo"),
) -> None:
    """Synthesise speech; train a reference, LD, DLD and self-conditioned exits; compare them at every depth."""
    from layerdial.demo.run import run_demo

    run_demo(out)


def try_model(
    model: Annotated[str, typer.Option(help="A model, such as a name of `layerdial models`.")] = "english",
    audio: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A file with speech; else a synthetic voice speaks."),
    ] = None,
    record: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(metavar="SECONDS", help="Take so much from the microphone."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder of the picture.")] = Path("runs/try"),
    threads: ThreadsOption = None,
) -> None:
    """Transcribe a clip at every depth, and draw the time that each takes."""
    from layerdial.demo.trial import run_trial

    run_trial(model, audio, record, out, threads)


def bench(
    suite: Annotated[Path, typer.Argument(metavar="SUITE.yaml", help="Such as experiments/suites/smoke.yaml.")],
    jobs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Runs at a time; as many as there are cores, with a GPU one."),
    ] = None,
    only: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="NAME", help="Run these entries alone, and what they need; may be repeated."),
    ] = None,
    seed: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option(help="Run these seeds alone; may be repeated."),
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Run nothing, only draw the report again.")] = False,
    fresh: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="NAME", help="First remove an entry's runs and rows, and of those that need its model."),
    ] = None,
    results: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Copy the rows to this file, such as experiments/results/synth.jsonl."),
    ] = None,
    set_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the suite, for example recipe.optim.lr=5e-4."),
    ] = None,
    ray: Annotated[
        bool,
        typer.Option("--ray", help="On a Ray cluster, such as that of RAY_ADDRESS; its machines share a folder."),
    ] = False,
) -> None:
    """Train and test methods by seeds, as a suite says, and report. What is done is kept, what stopped goes on."""
    from layerdial.suites.command import run_command

    code = run_command(
        suite,
        parallel=jobs,
        only=only or [],
        seeds=seed or [],
        report_only=report,
        fresh=fresh or [],
        results=results,
        overrides=set_ or [],
        ray=ray,
    )
    raise typer.Exit(code)
