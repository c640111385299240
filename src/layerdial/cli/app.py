"""The whole command line. Each command imports what it needs when it is called, so that `layerdial --help` is quick."""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from typing import NoReturn

import typer

from layerdial.cli import demo, deploy, evaluate, prepare, train
from layerdial.errors import UserError, installing
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
for _command in (
    train.train,
    evaluate.search,
    evaluate.sweep,
    deploy.transcribe,
    deploy.export,
    deploy.profile,
    deploy.prune,
    demo.demo,
    demo.bench,
):
    app.command()(_command)


def main() -> NoReturn:
    """Run a command.

    The exit code is 0 for success, 2 for an error in the user's input (one line on stderr), 1 for an error of this
    package.
    """
    show_every_name()
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
    except OSError as error:  # other expected errors are UserErrors
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG):
            raise
        _fail(f"{error.filename or 'disk'}: {error.strerror or error}; free the disk or choose another place")
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:  # typer's exit code for KeyboardInterrupt
            print(
                "layerdial: interrupted; what was finished is kept, the same command goes on (train: with --resume)",
                file=sys.stderr,
            )
        raise
    sys.exit(0)


def _show_log() -> None:
    """Show the package's log, such as resampling, on stderr, without a warning of a library about its attention."""
    warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")  # WavLM in transformers
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("layerdial: %(message)s"))
    logging.getLogger("layerdial").addHandler(handler)
    logging.getLogger("layerdial").setLevel(logging.INFO)


def _fail(message: str) -> NoReturn:
    print(f"layerdial: {' '.join(message.split())}", file=sys.stderr)
    sys.stdout.flush()
    os._exit(2)  # data workers may still run; nothing is left to be written
