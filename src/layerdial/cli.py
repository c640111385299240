"""The command line. Each command imports what it needs when it is called, so that `layerdial --help` is quick."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional, TypeVar

import typer

from layerdial.errors import UserError, installing
from layerdial.request import Request

_INTERRUPTED = 130  # the exit code of what SIGINT ended
Number = TypeVar("Number", int, float)

app = typer.Typer(
    help="Speech recognisers whose encoder blocks can be left out at run time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # SOURCE[/<split>] is no markup
)
prepare = typer.Typer(
    help="Turn a corpus into manifests: OUT/<split>.cuts.jsonl.gz.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(prepare, name="prepare")

ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A model folder, such as runs/demo/sc_exits/model; a folder that layerdial export wrote; or a hub id.",
    ),
]
CutsArgument = Annotated[Path, typer.Argument(metavar="CUTS", help="A manifest, such as data/x/dev.cuts.jsonl.gz.")]
SourceArgument = Annotated[Path, typer.Argument(metavar="SOURCE", help="The corpus' folder.")]
OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="Where the manifests go.")]
PartOption = Annotated[Optional[list[str]], typer.Option("--part", help="Only this part; may be repeated.")]  # noqa: UP045
VerifyOption = Annotated[bool, typer.Option(help="Decode every file to find damage, not only read its header.")]
DeviceOption = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")]
ThreadsOption = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--threads",
        min=1,
        help="Threads of one request; else those that were fastest in the profile, or the library's own choice.",
    ),
]
WorkersOption = Annotated[int, typer.Option(min=0, help="Processes that read audio and make features.")]


def _constraint(name: str) -> str:
    return f"Exported models: {Request.help(name)}."


def main() -> NoReturn:
    """Run a command: exit code 0 when fine, 2 when the user's input is wrong (one line on stderr), 1 when it is us."""
    _show_log()
    try:
        app()
    except UserError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "layerdial").partition(".")[0] == "layerdial":
            raise
        _fail(f"this command needs {error.name}, which is not installed: {installing('train,export')}")
    except BrokenPipeError:  # `layerdial … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:  # whatever else can be foreseen is a UserError
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG):
            raise
        _fail(f"{error.filename or 'disk'}: {error.strerror or error}; free the disk or choose another place")
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:  # which is what typer makes of KeyboardInterrupt
            print(
                "layerdial: interrupted; what was finished is kept, the same command goes on (train: with --resume)",
                file=sys.stderr,
            )
        raise
    sys.exit(0)


def _show_log() -> None:
    """What the package logs, such as that it resamples, on stderr; not what a library says of its own attention."""
    warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")  # WavLM in transformers
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("layerdial: %(message)s"))
    logging.getLogger("layerdial").addHandler(handler)
    logging.getLogger("layerdial").setLevel(logging.INFO)


def _fail(message: str) -> NoReturn:
    print(f"layerdial: {' '.join(message.split())}", file=sys.stderr)
    sys.stdout.flush()
    os._exit(2)  # data workers may still be running; nothing is left to be written


@prepare.command("librispeech")
def prepare_librispeech(
    source: SourceArgument, out: OutArgument, part: PartOption = None, verify: VerifyOption = False
) -> None:
    """LibriSpeech in its own layout (train-clean-100/..., dev-clean/..., test-clean/...)."""
    from layerdial.data.corpora import prepare_librispeech as run

    _report_corpus(run(source, out, part, verify, _line_progress()))


@prepare.command("tedlium")
def prepare_tedlium(
    source: SourceArgument, out: OutArgument, part: PartOption = None, verify: VerifyOption = False
) -> None:
    """TED-LIUM 3 in its own layout (legacy/train/sph, legacy/train/stm, ...)."""
    from layerdial.data.corpora import prepare_tedlium as run

    _report_corpus(run(source, out, part, verify, _line_progress()))


@prepare.command("folder")
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
    from layerdial.data.folder import prepare_folder as run

    held_out = dict(_parse_hold_out(text) for text in hold_out or [])
    _report_corpus(run(source, out, _parse_join(join), copies, held_out, seed, verify, _line_progress()))


@prepare.command("demo")
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
    """Connected digits and commands, read by espeak-ng's voices; needs `pip install layerdial[demo]`."""
    from layerdial.data.synth import SPLITS
    from layerdial.data.synth import prepare_demo as run
    from layerdial.progress import progress

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


@prepare.command("speak")
def prepare_speak(
    cuts: CutsArgument,
    out: OutArgument,
    copies: Annotated[int, typer.Option(min=1, help="How often each transcript is read, by voices of their own.")] = 2,
    rate: Annotated[int, typer.Option(help="Sample rate in Hz of the recordings that it stands in for.")] = 16000,
    seed: Annotated[int, typer.Option()] = 0,
    workers: WorkersOption = 2,
) -> None:
    """The transcripts of CUTS read by espeak-ng's voices: pre-training speech that costs no recordings."""
    from layerdial.data.synth import speak_cuts
    from layerdial.progress import progress

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


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml")],
    set_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe, for example optim.lr=5e-4."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was interrupted.")] = False,
) -> None:
    """Train a reference or a student as the recipe says."""
    from layerdial.config import load_recipe

    settings = load_recipe(recipe, set_ or [])
    from layerdial.training.loop import train as run

    folder = run(settings, resume)
    if os.environ.get("RANK", "0") != "0":
        return  # under torchrun or accelerate launch the first process speaks for all
    dev = {name: f"{value:.2%}" for name, value in json.loads((settings.out / "dev.json").read_text()).items()}
    print(f"model: {folder}")
    print(
        "dev:   " + ", ".join(f"{name.removeprefix('dev_').replace('_', ' ')} {value}" for name, value in dev.items())
    )
    if (folder / "ladder.json").is_file():
        print(f"next:  layerdial sweep {folder} TEST_CUTS --out {settings.out.parent / 'sweep'}")
    elif settings.policy.name != "none":
        print(f"next:  layerdial search {folder} {settings.data.dev}")


@app.command()
def search(
    model: ModelArgument,
    cuts: CutsArgument,
    metric: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="What to choose by: loss or wer. Exported models give no loss."),
    ] = None,
    device: DeviceOption = "cpu",
    workers: WorkersOption = 1,
) -> None:
    """Find the best subset of each depth on dev data and store it as MODEL/ladder.json."""
    from layerdial.actions import search_model

    folder, ladder = search_model(model, cuts, metric, device, workers)  # type: ignore[arg-type]
    for rung in ladder.rungs:
        print(f"depth {rung.depth:2}  {rung.subset}  WER {rung.wer:7.2%}  ({rung.errors} errors in {rung.words} words)")
    print(f"ladder: {folder / 'ladder.json'}")
    print(f"next:   layerdial sweep {model} TEST_CUTS --out runs/sweep")


@app.command()
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
) -> None:
    """Measure WER, cost and latency at every depth. A sweep that was interrupted goes on where it stopped."""
    from rich.console import Console

    from layerdial.actions import sweep_model
    from layerdial.report import compare_table, latest_rows, read_rows, sweep_table

    if against and not out:
        raise UserError("--against compares the methods in one folder; name it with --out")

    rows = sweep_model(model, cuts, _parse_depths(depths), select, out, method, device, workers, seed, threads)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(sweep_table(rows))
    if out and against:
        console.print(compare_table(latest_rows(read_rows(out / "sweep.jsonl")), against, out))
    if out:
        print(f"rows:    {out / 'sweep.jsonl'}\npicture: {out / 'sweep.png'}")
    print(f"next:    layerdial transcribe {model} AUDIO --depth {max(1, rows[-1]['depth'] // 2)}")


@app.command()
def transcribe(
    model: ModelArgument,
    audio: Annotated[list[Path], typer.Argument(metavar="AUDIO...")],
    depth: Annotated[Optional[int], typer.Option(help="How many blocks run; all if left out.")] = None,  # noqa: UP045
    deadline_ms: Annotated[Optional[float], typer.Option(help=_constraint("deadline_ms"))] = None,  # noqa: UP045
    target_rtf: Annotated[Optional[float], typer.Option(help=_constraint("target_rtf"))] = None,  # noqa: UP045
    max_cpu: Annotated[Optional[float], typer.Option(help=_constraint("max_cpu"))] = None,  # noqa: UP045
    confidence: Annotated[Optional[float], typer.Option(help=_constraint("confidence"))] = None,  # noqa: UP045
    first_depth: Annotated[Optional[int], typer.Option(help=Request.help("first_depth"))] = None,  # noqa: UP045
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file.")] = False,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
) -> None:
    """Print what is said in audio files of any sample rate and length."""
    from layerdial.load import load_model
    from layerdial.runtime.commands import transcribe_files

    request = Request(depth, None, deadline_ms, target_rtf, max_cpu, confidence, first_depth)
    raise typer.Exit(transcribe_files(load_model(model, device, threads), audio, request, as_json))


@app.command()
def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder that devices get.")],
    int8: Annotated[bool, typer.Option("--int8", help="Matrix products in int8: smaller and faster.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Weights in half precision: half the size, as fast.")] = False,
    cuts: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Dev cuts on which --int8 is checked at every depth; blocks that it hurts stay in float."),
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", help="layerdial, or sherpa-onnx for that runtime (one depth).")
    ] = "layerdial",
    depth: Annotated[Optional[int], typer.Option(help="For sherpa-onnx: how many blocks run.")] = None,  # noqa: UP045
    licence: Annotated[Optional[str], typer.Option(help="The licence of the weights, for the metadata.")] = None,  # noqa: UP045
    name: Annotated[Optional[str], typer.Option(help="The model's name, for the metadata.")] = None,  # noqa: UP045
) -> None:
    """Write a model as ONNX, for devices without torch: one file with a depth dial."""
    from layerdial.export.run import export_model, export_sherpa

    if int8 and fp16:
        raise UserError("--int8 and --fp16 exclude each other; export twice, into two folders")
    if format_ not in ("layerdial", "sherpa-onnx"):
        raise UserError(f"--format is {format_!r}; choose layerdial or sherpa-onnx")
    if cuts is not None and (not int8 or format_ != "layerdial"):
        raise UserError("--cuts is for --int8 in layerdial's own format, which is checked on them")
    precision: Any = "int8" if int8 else "float16" if fp16 else "float32"
    if format_ == "sherpa-onnx":
        if depth is None:
            raise UserError("sherpa-onnx runs one depth: say which, for example --depth 6")
        subset = export_sherpa(model, out, depth, precision, licence, name, note=_note)
        print(f"sherpa-onnx: {out} (blocks {', '.join(map(str, subset.kept))} of {subset.n_blocks})")
        if int8:
            print("checked:     not for WER; an export in layerdial's own format is, with --cuts")
        print(f"next:        see {out / 'README.md'}")
        return
    if depth is not None:
        raise UserError("--depth is for --format sherpa-onnx; a layerdial export runs at every depth")
    manifest = export_model(model, out, precision, cuts, licence, name, note=_note)
    size = sum(file.stat().st_size for file in out.glob("model.*")) / 1e6
    worst = max(row.largest_difference for row in manifest.parity)
    print(f"exported: {out} ({precision}, {size:.1f} MB, {manifest.n_blocks} blocks)")
    print(f"compared: log-probabilities within {worst:.2g} of torch at every depth")
    if not manifest.wer.get("holds", True):
        print("checked:  WER is worse than in float; see manifest.json, or check on more cuts")
    if int8 and cuts is None:
        print("checked:  not for WER; --cuts DEV_CUTS does that at every depth")
    print(f"next:     layerdial profile {out}")


def _note(text: str) -> None:
    print(text, file=sys.stderr)


@app.command()
def profile(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that layerdial export wrote.")],
    threads: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option(
            "--threads", min=1, help="Measure with so many threads; may be repeated. One and all if left out."
        ),
    ] = None,
    budget: Annotated[float, typer.Option(min=1, help="Seconds to measure for, about.")] = 60.0,
) -> None:
    """Measure an exported model on this device, so that deadlines can be kept from the first request on."""
    from layerdial.runtime.commands import profile_folder

    profile_folder(out, threads or (), budget)


@app.command()
def prune(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of the smaller model.")],
    depth: Annotated[int, typer.Option(help="How many blocks it has: those that MODEL runs at that depth.")],
) -> None:
    """Write the blocks that run at one depth as a smaller ordinary model, which has no dial."""
    from layerdial.models.prune import prune_model

    subset = prune_model(model, out, depth)
    print(f"model: {out} (blocks {', '.join(map(str, subset.kept))} of {subset.n_blocks})")
    print(f"next:  layerdial transcribe {out} AUDIO")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/demo"),
) -> None:
    """Synthesise speech; train a reference, LD, DLD and self-conditioned exits; compare them at every depth."""
    from layerdial.demo import run_demo

    run_demo(out)


@app.command()
def bench(
    suite: Annotated[Path, typer.Argument(metavar="SUITE.yaml", help="Such as benchmarks/suites/smoke.yaml.")],
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
        typer.Option(help="Copy the rows to this file, such as benchmarks/results/synth.jsonl."),
    ] = None,
    set_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the suite, for example recipe.optim.lr=5e-4."),
    ] = None,
) -> None:
    """Train and test methods by seeds, as a suite says, and report. What is done is kept, what stopped goes on."""
    from layerdial.bench.command import run_command

    code = run_command(
        suite,
        parallel=jobs,
        only=only or [],
        seeds=seed or [],
        report_only=report,
        fresh=fresh or [],
        results=results,
        overrides=set_ or [],
    )
    raise typer.Exit(code)


def _parse_depths(text: str) -> list[int] | None:
    if not text:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--depths {text!r} is not a list of numbers such as 2,4,12") from None


def _parse_numbers(option: str, text: str, example: str, kind: Callable[[str], Number]) -> list[Number]:
    """As many numbers as `example` has."""
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
    """(description, done, total) as one bar or one line a minute."""
    from contextlib import ExitStack

    from layerdial.progress import Update, progress

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


def _report_corpus(report: Any) -> None:
    for name, split in sorted(report.splits.items()):
        print(f"{name}: {split.cuts} cuts, {split.hours:.2f} h, {split.speakers} speakers, {split.path}")
    if report.rejected:
        first = report.rejected[0]
        where = f"; all in {report.rejected_path}" if getattr(report, "rejected_path", None) else ""
        print(f"left out: {len(report.rejected)}, the first {first.cut_id}: {first.reason}{where}", file=sys.stderr)
    print("next: layerdial train RECIPE.yaml --set data.train=… --set data.dev=…")


if __name__ == "__main__":  # accelerate launch -m layerdial.cli train ...
    main()
