"""`layerdial listen`: the microphone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from layerdial.cli.listening import HELP, run_listen
from layerdial.cli.options import DeviceOption, PluginOption, ThreadsOption, load_own, with_request_options
from layerdial.cli.request_options import STREAM_HELP
from layerdial.registry import DEFAULT
from layerdial.request import Request

if TYPE_CHECKING:
    from layerdial.recognition.streaming import StreamingRecognizer


@with_request_options
def listen(
    model: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL]",
            help="A model folder, an exported folder, a hub id, or a name of `layerdial models`; english if left out.",
        ),
    ] = DEFAULT,
    *,
    request: Request,
    file: Annotated[Optional[Path], typer.Option("--from", metavar="FILE", help=HELP["from"])] = None,  # noqa: UP045
    microphone: Annotated[Optional[str], typer.Option(metavar="NAME", help=HELP["microphone"])] = None,  # noqa: UP045
    list_them: Annotated[bool, typer.Option("--list-microphones", help=HELP["list"])] = False,
    pause: Annotated[Optional[float], typer.Option(metavar="SECONDS", help=HELP["pause"])] = None,  # noqa: UP045
    chunk_ms: Annotated[Optional[int], typer.Option(metavar="MS", help=STREAM_HELP["chunk_ms"])] = None,  # noqa: UP045
    as_json: Annotated[bool, typer.Option("--json", help=HELP["json"])] = False,
    out: Annotated[Optional[Path], typer.Option(metavar="FILE", help=HELP["out"])] = None,  # noqa: UP045
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    plugin: PluginOption = None,
) -> None:
    """Print what is said into a microphone, a line for each utterance, until Ctrl-C (exit code 0)."""
    load_own(plugin)
    from layerdial.evaluation.load import load_model

    def load(name: str) -> StreamingRecognizer:
        return load_model(name, device, threads)

    run_listen(model, load, request, file, microphone, list_them, pause, chunk_ms, as_json, out)
