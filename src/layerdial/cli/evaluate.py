"""`layerdial search` and `layerdial sweep`: the blocks that run at a depth, and the errors and cost of each depth."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Optional

import typer

from layerdial.cli.options import (
    CutsArgument,
    DeviceOption,
    ModelArgument,
    NormalizerOption,
    PluginOption,
    ThreadsOption,
    WorkersOption,
    load_own,
    with_request_options,
)
from layerdial.cli.request_options import SEARCH_OPTIONS
from layerdial.errors import UserError
from layerdial.request import Request


def search(
    model: ModelArgument,
    cuts: CutsArgument,
    metric: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="What to choose by: loss or wer. Exported models give no loss."),
    ] = None,
    device: DeviceOption = "cpu",
    workers: WorkersOption = 1,
    normalizer: NormalizerOption = "basic",
    plugin: PluginOption = None,
) -> None:
    """Find the best subset of each depth on dev data and store it as MODEL/ladder.json."""
    load_own(plugin)
    from layerdial.evaluation.run import search_model

    folder, ladder = search_model(model, cuts, metric, device, workers, normalizer=normalizer)  # type: ignore[arg-type]
    for rung in ladder.rungs:
        print(f"depth {rung.depth:2}  {rung.subset}  WER {rung.wer:7.2%}  ({rung.errors} errors in {rung.words} words)")
    print(f"ladder: {folder / 'ladder.json'} (found on {ladder.rungs[-1].words} words)")
    print(f"next:   layerdial sweep {model} TEST_CUTS --out runs/sweep")


@partial(with_request_options, options=SEARCH_OPTIONS)
def sweep(
    model: ModelArgument,
    cuts: CutsArgument,
    depths: Annotated[str, typer.Option(help="For example 2,4,12; all if left out.")] = "",
    select: Annotated[
        str,
        typer.Option(
            help="ladder, prefix, even, random, or chosen (by the network itself); ladder where there is one."
        ),
    ] = "",
    out: Annotated[Optional[Path], typer.Option(help="Writes sweep.jsonl and sweep.png there.")] = None,  # noqa: UP045
    method: Annotated[Optional[str], typer.Option(help="A name for this line of the picture.")] = None,  # noqa: UP045
    against: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Compare all methods in OUT with this one, utterance by utterance."),
    ] = None,
    seed: Annotated[int, typer.Option(help="For --select random.")] = 0,
    device: DeviceOption = "cpu",
    workers: WorkersOption = 1,
    threads: ThreadsOption = None,
    normalizer: NormalizerOption = "basic",
    chunk_ms: Annotated[
        str, typer.Option(help="For a streaming model: measure every depth in chunks, for example 80,320,full.")
    ] = "",
    *,
    request: Request,
    plugin: PluginOption = None,
) -> None:
    """Measure WER, cost and latency at every depth. A sweep that was interrupted goes on where it stopped.

    With --lm, --hotwords or --beams each depth is measured by a greedy search and by that one. With --chunk-ms, and
    cuts whose words have times, it is also measured how long after its end a word is written.
    """
    load_own(plugin)
    from rich.console import Console

    from layerdial.evaluation.run import sweep_model
    from layerdial.evaluation.tables import compare_table, latest_rows, sweep_table
    from layerdial.utils.rows import read_rows

    if against and not out:
        raise UserError("--against compares the methods in one folder; name it with --out")

    rows = sweep_model(
        model,
        cuts,
        parse_numbers("--depths", depths),
        select,
        out,
        method,
        device,
        workers,
        seed,
        threads,
        normalizer=normalizer,  # type: ignore[arg-type]
        request=request,
        chunk_frames=parse_chunks("--chunk-ms", chunk_ms),
    )
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(sweep_table(rows))
    if out and against:
        console.print(compare_table(latest_rows(read_rows(out / "sweep.jsonl")), against, out))
    if out:
        print(f"rows:    {out / 'sweep.jsonl'}\npicture: {out / 'sweep.png'}")
    print(f"next:    layerdial transcribe {model} AUDIO --depth {max(1, rows[-1]['depth'] // 2)}")


def calibrate(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A folder that layerdial export wrote, or a name of it.")
    ],
    cuts: CutsArgument,
    depths: Annotated[str, typer.Option(help="For example 3,4; all if left out.")] = "",
    normalizer: NormalizerOption = "basic",
) -> None:
    """Make the confidence of words that of being right, by dev data; stored beside the model, and used from then on."""
    from layerdial.evaluation.calibrate import PICTURE, calibrate_model
    from layerdial.recognition.calibration import FILE

    folder, found = calibrate_model(model, cuts, parse_numbers("--depths", depths), normalizer)  # type: ignore[arg-type]
    for curve in found.curves:
        errors = f"{curve.error_before:.3f} before, {curve.error_after:.3f} calibrated on other speakers"
        print(f"depth {curve.depth:2}  expected calibration error {errors}  ({curve.words} words)")
    print(f"calibration: {folder / FILE}")
    print(f"picture:     {folder / PICTURE}")
    print(f"next:        layerdial transcribe {model} AUDIO --words --json")


def parse_numbers(option: str, text: str) -> list[int] | None:
    """Return the numbers of an option such as `2,4,12`, none of an empty text."""
    if not text:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} {text!r} is not a list of numbers such as 2,4,12") from None


def parse_chunks(option: str, text: str) -> tuple[int | None, ...]:
    """Return the sizes of chunks of an option such as `80,320,full`, in frames of the encoder; none for "full"."""
    if not text:
        return ()
    from layerdial.config.network import StreamingConfig
    from layerdial.config.strict import parse

    sizes = [int(part) if part.isdecimal() else part for part in text.split(",")]
    return parse(StreamingConfig, {"chunk_ms": sizes}, f"{option} {text}").chunk_frames
