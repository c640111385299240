"""The command line of a device, where only the runtime is installed: exported models, and argparse alone.

typer would also need pydantic, rich and pygments.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from layerdial import __version__
from layerdial.cli.bulk import HELP as BULK
from layerdial.cli.bulk import BulkOptions, run_bulk
from layerdial.cli.exporting import WEB_HELP
from layerdial.cli.listening import ABOUT, HELP
from layerdial.cli.request_options import STREAM_HELP, StreamFlags, add_request_options, request_of
from layerdial.errors import UserError, installing, needing
from layerdial.registry import DEFAULT
from layerdial.request import Request
from layerdial.utils.output import end_quietly
from layerdial.utils.printing import show_every_name

if TYPE_CHECKING:
    from layerdial.recognition.streaming import StreamingRecognizer

_COMMANDS = ("transcribe", "listen", "profile", "serve", "export", "models", "try")


def main() -> NoReturn:
    """Run the command line of a device, which has few commands and exported models only."""
    show_every_name()
    logging.basicConfig(format="layerdial: %(message)s")
    logging.getLogger("layerdial").setLevel(logging.INFO)
    try:
        with needing("runtime", "exported models need"):
            code = _run(_parse(_known(sys.argv[1:])))
        end_quietly(code)
    except BrokenPipeError:  # `layerdial … | head`
        end_quietly(0)
    except KeyboardInterrupt:
        print("layerdial: interrupted", file=sys.stderr)
        sys.exit(130)
    except UserError as error:
        print(f"layerdial: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def _known(words: Sequence[str]) -> Sequence[str]:
    """Return `words`. Raises `UserError` where they begin with a command that a device does not have."""
    if words and not words[0].startswith("-") and words[0] not in _COMMANDS:
        raise UserError(f"a device has {', '.join(_COMMANDS)}; for {words[0]}: {installing('train')}")
    return words


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options; options may stand between the words of `transcribe`."""
    parser = _parser(words)
    options, more = parser.parse_known_args(words)
    if options.command != "transcribe" or any(word.startswith("-") and word != "-" for word in more):
        parser.parse_args(words)  # ends with what is wrong with them
    elif more:
        options.names += more
    return options


def _run(options: argparse.Namespace) -> int:
    """Run a command. Each imports what it needs, so that the others start quickly. Return the exit code."""
    if options.command == "models":
        return _models(options)
    if options.command == "profile":
        from layerdial.runtime.commands import profile_folder

        _check_exported(options.out)
        profile_folder(options.out, options.threads or (), options.budget)
    elif options.command == "listen":
        _listen(options)
    elif options.command == "serve":
        from layerdial.cli.device_serve import run_serve

        _check_exported(Path(options.model or DEFAULT))
        run_serve(options)
    elif options.command == "export":
        _export(options)
    elif options.command == "try":
        from layerdial.demo.trial import run_trial

        _check_exported(Path(options.model))
        run_trial(options.model, options.audio, options.record, options.out, options.threads)
    else:
        return _transcribe(options)
    return 0


def _transcribe(options: argparse.Namespace) -> int:
    from layerdial.registry.words import split_words
    from layerdial.runtime.commands import transcribe_files
    from layerdial.runtime.outputs import Output, format_of, plan
    from layerdial.runtime.recognizer import OnnxRecognizer

    request = replace(request_of(vars(options)), vad=options.vad)
    bulk = BulkOptions(options.manifest, options.out, options.finish_by, options.workers, options.ray)
    flags = StreamFlags(options.stream, options.chunk_ms, options.pause)
    whole = {name: getattr(options, name) for name in ("output_dir", "skip_existing")}
    of_files = ("format", "json", "output_dir", "skip_existing", "channel", "stream")
    if bulk.asked({name: getattr(options, name) for name in of_files}):
        return run_bulk(options.names, bulk, request, lambda model: partial(_load, model, options.threads or 1))
    model, audio = split_words(options.names)
    chosen = format_of(options.format, options.json)
    output = Output(chosen, options.output_dir, options.skip_existing, options.channel)
    streamed, jobs = flags.asked(whole), plan(audio, output)
    _check_exported(Path(model))
    if streamed:
        from layerdial.runtime.streamed_files import stream_files

        load = partial(OnnxRecognizer, model, options.threads)
        return stream_files(load, jobs, request, output, options.chunk_ms, options.pause)
    return transcribe_files(OnnxRecognizer(model, options.threads), jobs, request, output)


def _load(model: str, threads: int | None) -> StreamingRecognizer:
    """Load an exported model. Raises `UserError` for one that is not exported."""
    from layerdial.runtime.recognizer import OnnxRecognizer

    _check_exported(Path(model))
    return OnnxRecognizer(model, threads)


def _listen(options: argparse.Namespace) -> None:
    from layerdial.cli.listening import run_listen

    def load(model: str) -> StreamingRecognizer:
        return _load(model, options.threads)

    given = (options.file, options.microphone, options.list_them, options.pause, options.chunk_ms)
    run_listen(options.model, load, request_of(vars(options)), *given, options.json, options.out)


def _export(options: argparse.Namespace) -> None:
    if options.format != "web":
        raise UserError(f"a device exports with --format web alone; for the others: {installing('export')}")
    from layerdial.cli.exporting import run_export_web

    _check_exported(options.model)
    run_export_web(options.model, options.out, options.onnxruntime_web, force=options.force)


def _models(options: argparse.Namespace) -> int:
    from layerdial.registry.find import registered_folder
    from layerdial.registry.table import models_table

    if options.action == "fetch":
        print(f"{options.name}: {registered_folder(options.name)}")
    else:
        print("\n".join(models_table()))
    return 0


def _check_exported(model: Path) -> None:
    from layerdial.runtime.session import is_exported

    if (model / "config.json").is_file() and not is_exported(model):
        raise UserError(f"{model} is a torch model, a device runs exported ones; for torch: {installing('train')}")


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="layerdial",
        description=f"Exported models on this device. For the other commands: {installing('train')}.",
    )
    parser.add_argument("--version", action="version", version=f"layerdial {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    transcribe = commands.add_parser(
        "transcribe",
        help="Print what is said in audio files of any rate and length.",
        usage="layerdial transcribe [options] [MODEL] AUDIO...",
    )
    names = "audio files or folders, behind a folder of layerdial export or a name of `layerdial models` (else english)"
    transcribe.add_argument("names", metavar="[MODEL] AUDIO", nargs="*", help=names)
    add_request_options(transcribe)
    transcribe.add_argument("--vad", action=argparse.BooleanOptionalAction, help=Request.help("vad"))
    _add_output(transcribe)
    transcribe.add_argument("--stream", action="store_true", help=STREAM_HELP["stream"])
    transcribe.add_argument("--chunk-ms", type=int, metavar="MS", help=STREAM_HELP["chunk_ms"])
    transcribe.add_argument("--pause", type=float, metavar="SECONDS", help=STREAM_HELP["pause"])
    _add_bulk(transcribe)
    transcribe.add_argument("--threads", type=int)
    _add_listen(commands.add_parser("listen", help=ABOUT))
    profile = commands.add_parser("profile", help="Measure an exported model on this device.")
    profile.add_argument("out", type=Path, help="a folder that layerdial export wrote")
    profile.add_argument("--threads", type=int, action="append", help="may be repeated; one and all if left out")
    profile.add_argument("--budget", type=float, default=60.0, help="seconds to measure for, about")
    serve = commands.add_parser("serve", help="Answer requests over HTTP, websockets and TCP.")
    if words[:1] == ["serve"]:  # what it has is read from modules that the others do not need
        from layerdial.cli.device_serve import add_serve_options

        add_serve_options(serve)
    _add_export(commands.add_parser("export", help="Write a page that runs an exported model in the browser."))
    _add_models(commands.add_parser("models", help="List the models that have names, or fetch one."))
    _add_try(commands.add_parser("try", help="Transcribe a clip at every depth, and draw the time that each takes."))
    return parser


def _add_output(transcribe: argparse.ArgumentParser) -> None:
    transcribe.add_argument("--format", help="text, json (an object a file), or subtitles: srt, vtt, tsv")
    transcribe.add_argument("--json", action="store_true", help="--format json")
    transcribe.add_argument("--output-dir", type=Path, metavar="DIR", help="write a file for each recording there")
    transcribe.add_argument("--skip-existing", action="store_true", help="leave out what has its file there")
    transcribe.add_argument("--channel", help="left, right, a number from 1 on, or each, with its name; else mixed")


def _add_bulk(transcribe: argparse.ArgumentParser) -> None:
    transcribe.add_argument("--manifest", type=Path, metavar="FILE", help=BULK["manifest"])
    transcribe.add_argument("--out", type=Path, metavar="FILE", help=BULK["out"])
    transcribe.add_argument("--finish-by", metavar="TIME", help=BULK["finish_by"])
    transcribe.add_argument("--workers", type=int, help=BULK["workers"])
    transcribe.add_argument("--ray", action="store_true", help=BULK["ray"])


def _add_listen(listen: argparse.ArgumentParser) -> None:
    model = "a folder of layerdial export or a name of `layerdial models` (else english)"
    listen.add_argument("model", metavar="MODEL", nargs="?", default=DEFAULT, help=model)
    add_request_options(listen)
    listen.add_argument("--from", dest="file", type=Path, metavar="FILE", help=HELP["from"])
    listen.add_argument("--microphone", metavar="NAME", help=HELP["microphone"])
    listen.add_argument("--list-microphones", dest="list_them", action="store_true", help=HELP["list"])
    listen.add_argument("--pause", type=float, metavar="SECONDS", help=HELP["pause"])
    listen.add_argument("--chunk-ms", type=int, metavar="MS", help=STREAM_HELP["chunk_ms"])
    listen.add_argument("--json", action="store_true", help=HELP["json"])
    listen.add_argument("--out", type=Path, metavar="FILE", help=HELP["out"])
    listen.add_argument("--threads", type=int)


def _add_export(export: argparse.ArgumentParser) -> None:
    export.add_argument("model", metavar="MODEL", type=Path, help="a folder of layerdial export, or a name")
    export.add_argument("out", metavar="OUT", type=Path, help="the folder that a host of static files serves")
    export.add_argument("--format", help="web; the others are not for devices")
    export.add_argument("--onnxruntime-web", type=Path, metavar="FILE", help=WEB_HELP)
    export.add_argument("--force", action="store_true", help="replace an export that is there")


def _add_models(models: argparse.ArgumentParser) -> None:
    fetch = models.add_subparsers(dest="action").add_parser("fetch", help="Fetch a model into the user's cache.")
    fetch.add_argument("name")


def _add_try(trial: argparse.ArgumentParser) -> None:
    trial.add_argument("--model", default=DEFAULT, help="a name of `layerdial models`, or an exported folder")
    trial.add_argument("--audio", type=Path, help="a file with speech; else a synthetic voice speaks")
    trial.add_argument("--record", type=float, metavar="SECONDS", help="take so much from the microphone")
    trial.add_argument("--out", type=Path, default=Path("runs/try"), help="the folder of the picture")
    trial.add_argument("--threads", type=int)
