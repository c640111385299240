"""`layerdial prepare`: corpora as manifests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeVar

import typer

from layerdial.cli.options import (
    CutsArgument,
    OutArgument,
    PartOption,
    SourceArgument,
    VerifyOption,
    WorkersOption,
)
from layerdial.errors import UserError

if TYPE_CHECKING:
    from layerdial.data.manifest import CorpusReport

Number = TypeVar("Number", int, float)


def prepare_librispeech(
    source: SourceArgument, out: OutArgument, part: PartOption = None, verify: VerifyOption = False
) -> None:
    """LibriSpeech in its own layout (train-clean-100/..., dev-clean/..., test-clean/...)."""
    from layerdial.data.corpora.librispeech import prepare_librispeech as run

    _report_corpus(run(source, out, part, verify, _line_progress()))


def prepare_tedlium(
    source: SourceArgument, out: OutArgument, part: PartOption = None, verify: VerifyOption = False
) -> None:
    """TED-LIUM 3 in its own layout (legacy/train/sph, legacy/train/stm, ...)."""
    from layerdial.data.corpora.tedlium import prepare_tedlium as run

    _report_corpus(run(source, out, part, verify, _line_progress()))


def prepare_folder(
    source: SourceArgument,
    out: OutArgument,
    join: Annotated[str, typer.Option(help="Join so many recordings of a speaker into one cut, for example 3-7.")] = "",
    copies: Annotated[int, typer.Option(min=1, help="With --join: use every recording so many times.")] = 1,
    hold_out: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Move speakers to a split, for example dev=anna,bert; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="For --join.")] = 0,
    verify: VerifyOption = True,
) -> None:
    """Your own audio: SOURCE[/<split>]/metadata.csv with file_name,transcription[,speaker_id]."""
    from layerdial.data.corpora.folder import prepare_folder as run

    held_out = dict(_parse_hold_out(text) for text in hold_out or [])
    _report_corpus(run(source, out, _parse_join(join), copies, held_out, seed, verify, _line_progress()))


def prepare_demo(
    out: OutArgument,
    utterances: Annotated[
        str, typer.Option(help="How many in train,dev,test, for example 1500,300,2000; 31 minutes of all if left out.")
    ] = "",
    snr: Annotated[str, typer.Option(help="Range of the noise levels in dB below the speech.")] = "10,30",
    reverb: Annotated[
        str, typer.Option(help="Range of the rooms' RT60 in seconds, for example 0.2,0.7; no rooms if left out.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Another seed says other things.")] = 0,
    workers: WorkersOption = 2,
) -> None:
    """Connected digits and commands, read by espeak-ng's voices; needs `pip install '.[demo]'`."""
    from layerdial.data.synthesis.demo_corpus import SPLITS
    from layerdial.data.synthesis.demo_corpus import prepare_demo as run
    from layerdial.utils.progress import progress

    counts = _parse_numbers("--utterances", utterances, "1500,300,2000", int) if utterances else []
    low, high = _parse_numbers("--snr", snr, "10,30", float)
    rooms = _parse_numbers("--reverb", reverb, "0.2,0.7", float) if reverb else None
    with progress("speak", None) as update:
        report = run(
            out,
            utterances=dict(zip(SPLITS, counts, strict=False)),
            snr_db=(low, high),
            reverb=(rooms[0], rooms[1]) if rooms else None,
            seed=seed,
            workers=workers,
            progress=lambda done, total: update(done, total=total),
        )
    _report_corpus(report)


def prepare_speak(
    cuts: CutsArgument,
    out: OutArgument,
    copies: Annotated[int, typer.Option(min=1, help="How often each transcript is read, by voices of their own.")] = 2,
    rate: Annotated[int, typer.Option(help="Sample rate in Hz of the recordings that it stands in for.")] = 16000,
    seed: Annotated[int, typer.Option()] = 0,
    workers: WorkersOption = 2,
) -> None:
    """The transcripts of CUTS read by espeak-ng's voices: pre-training speech that costs no recordings."""
    from layerdial.data.synthesis.demo_corpus import speak_cuts
    from layerdial.utils.progress import progress

    with progress("speak", None) as update:
        report = speak_cuts(
            cuts,
            out,
            copies=copies,
            rate=rate,
            seed=seed,
            workers=workers,
            progress=lambda done, total: update(done, total=total),
        )
    _report_corpus(report)


def _parse_numbers(option: str, text: str, example: str, kind: Callable[[str], Number]) -> list[Number]:
    """Return as many numbers as `example` has. Raises `UserError` for another form."""
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != len(example.split(",")):
        raise UserError(f"{option} {text!r} is not of the form {example}")
    return numbers


def _parse_join(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    least, _, most = text.partition("-")
    try:
        return int(least), int(most or least)
    except ValueError:
        raise UserError(f"--join {text!r} is not a range such as 3-7") from None


def _parse_hold_out(text: str) -> tuple[str, list[str]]:
    split, equals, speakers = text.partition("=")
    if not equals or not split or not speakers:
        raise UserError(f"--hold-out {text!r} is not of the form SPLIT=speaker,speaker")
    return split, speakers.split(",")


def _line_progress() -> Any:
    """Return a function of (description, done, total) that shows one bar, or one line a minute."""
    from contextlib import ExitStack

    from layerdial.utils.progress import Update, progress

    stack = ExitStack()
    current: dict[str, Update] = {}

    def update(description: str, done: int, total: int | None) -> None:
        if description not in current:
            stack.close()
            current.clear()
            current[description] = stack.enter_context(progress(description, total))
        current[description](done)
        if done == total:
            stack.close()

    return update


def _report_corpus(report: CorpusReport) -> None:
    for name, split in sorted(report.splits.items()):
        print(f"{name}: {split.cuts} cuts, {split.hours:.2f} h, {split.speakers} speakers, {split.path}")
    if report.rejected:
        first = report.rejected[0]
        where = f"; all in {report.rejected_path}" if report.rejected_path else ""
        print(f"left out: {len(report.rejected)}, the first {first.cut_id}: {first.reason}{where}", file=sys.stderr)
    print("next: layerdial train RECIPE.yaml --set data.train=… --set data.dev=…")
