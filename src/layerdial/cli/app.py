"""The whole command line. Each command imports what it needs when it is called, so that `layerdial --help` is quick."""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, NoReturn

import typer
import typer.main

from layerdial import __version__
from layerdial.cli import convert, demo, deploy, evaluate, language, listen, models, prepare, recipes, serve, train
from layerdial.errors import UserError, installing
from layerdial.utils.output import end_quietly
from layerdial.utils.printing import show_every_name

_INTERRUPTED = 130  # the exit code after SIGINT

app = typer.Typer(
    help="Speech recognisers whose encoder blocks can be left out at run time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # SOURCE[/<split>] is no markup
)
corpora = typer.Typer(
    help="Turn a corpus into manifests: OUT/<split>.cuts.jsonl.gz.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(corpora, name="prepare")
for _name, _prepare in (
    ("librispeech", prepare.prepare_librispeech),
    ("tedlium", prepare.prepare_tedlium),
    ("folder", prepare.prepare_folder),
    ("demo", prepare.prepare_demo),
    ("speak", prepare.prepare_speak),
):
    corpora.command(_name)(_prepare)
conversions = typer.Typer(
    help="Turn a model of other software into a Hugging Face folder.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(conversions, name="convert")
conversions.command("ctranslate2")(convert.convert_ctranslate2)
shipped = typer.Typer(
    help="List and copy the recipes and suites that come with layerdial.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(shipped, name="recipes")
shipped.command("list")(recipes.list_recipes)
shipped.command("copy")(recipes.copy_recipe)
named = typer.Typer(invoke_without_command=True, callback=models.list_models, rich_markup_mode=None)
app.add_typer(named, name="models")
named.command("fetch")(models.fetch_model)
named.command("entry")(models.enter_model)
app.command("try")(demo.try_model)
for _command in (
    train.train,
    train.pseudo_label,
    evaluate.search,
    evaluate.sweep,
    evaluate.calibrate,
    language.ngram,
    language.tune_decoder,
    deploy.transcribe,
    listen.listen,
    deploy.export,
    deploy.profile,
    serve.serve,
    deploy.average,
    deploy.difference,
    deploy.join,
    deploy.prune,
    demo.demo,
    demo.bench,
):
    app.command()(_command)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        print(f"layerdial {__version__}")
        raise typer.Exit


@cache
def command_line() -> Any:
    """Return what parses the command line and runs a command; to put it together takes tens of milliseconds."""
    return typer.main.get_command(app)


def main() -> NoReturn:
    """Run a command.

    The exit code is 0 for success, 2 for an error in the user's input (one line on stderr), 1 for an error of this
    package.
    """
    show_every_name()
    _show_log()
    try:
        command_line()()
    except UserError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "layerdial").partition(".")[0] == "layerdial":
            raise
        _fail(f"this command needs {error.name}, which is not installed: {installing('train,export')}")
    except OSError as error:  # whatever else can be foreseen is a UserError
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG):
            raise
        _fail(f"{error.filename or 'disk'}: {error.strerror or error}; free the disk or choose another place")
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # `layerdial … | head`, which click takes for a failure
            end_quietly(0)
        if ended.code == _INTERRUPTED:  # which is what typer makes of KeyboardInterrupt
            print(f"layerdial: interrupted{_how_to_go_on(sys.argv[1:])}", file=sys.stderr)
        end_quietly(ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1)
    sys.exit(0)


def _how_to_go_on(words: Sequence[str]) -> str:
    """Return what an interrupted command keeps; nothing for commands that begin anew."""
    kept = "; what was finished is kept, the same command goes on"
    if words[:1] == ["train"]:
        return f"{kept} (train: with --resume)"
    resumed = words[:1] in (["search"], ["demo"], ["bench"], ["pseudo-label"])
    resumed = resumed or words[:2] in (["prepare", "demo"], ["prepare", "speak"])
    resumed = resumed or (words[:1] == ["transcribe"] and "--skip-existing" in words)
    if resumed or (words[:1] == ["sweep"] and any(word.split("=")[0] == "--out" for word in words)):
        return kept
    return ""


def _show_log() -> None:
    """Show the package's log, such as resampling, on stderr, without a warning of a library about its attention."""
    warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")  # WavLM in transformers
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("layerdial: %(message)s"))
    log, root = logging.getLogger("layerdial"), logging.getLogger()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    others = logging.StreamHandler()
    others.setLevel(logging.WARNING)
    root.addHandler(others)  # else the first warning of a package that has no log of its own would set one up
    root.addFilter(lambda record: "lhotse utilities directory" not in str(record.msg))  # which needs a home to write in


def _fail(message: str) -> NoReturn:
    print(f"layerdial: {' '.join(message.split())}", file=sys.stderr)
    sys.stdout.flush()
    os._exit(2)  # data workers may still run; nothing is left to be written
