"""Arguments and options that several commands have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from layerdial.cli.request_options import OPTIONS, RequestOption, request_of

ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A model folder, such as runs/demo/sc_exits/model; a folder that layerdial export wrote; a hub id; or, "
        "where exported models run, a name of `layerdial models`.",
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
NormalizerOption = Annotated[
    str,
    typer.Option(help="The normal form in which words are counted: basic, or whisper-english, as OpenAI quotes WER."),
]
PluginOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="A Python file that registers the network's family, if it is not built in; may be repeated.",
    ),
]


def help_of(name: str) -> str:
    """Return the help text of a field of a request, as a sentence."""
    return next(option.help for option in OPTIONS if option.name == name)


def load_own(plugins: list[str] | None) -> None:
    """Execute the files of `--plugin`, if there are any: what reads them takes a while to import."""
    if plugins:
        from layerdial.config.plugins import load_plugins

        load_plugins(plugins)


def with_request_options(
    command: Callable[..., None], options: Sequence[RequestOption] = OPTIONS
) -> Callable[..., None]:
    """Return a command that has the options of a request, or some of them, in place of its parameter `request`."""
    signature = inspect.signature(command, eval_str=True)
    parameters = list[inspect.Parameter]()
    for parameter in signature.parameters.values():
        parameters += map(_parameter, options) if parameter.name == "request" else [parameter]

    @wraps(command)
    def run(**given: Any) -> None:
        request = request_of({option.name: given.pop(option.name) for option in options})
        command(request=request, **given)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _parameter(option: RequestOption) -> inspect.Parameter:
    switch = option.kind is bool
    kind: Any = bool if switch else Optional[option.kind]  # noqa: UP045
    annotation = Annotated[kind, typer.Option(option.flag, help=option.help)]
    return inspect.Parameter(
        option.name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=False if switch else None,
        annotation=annotation,
    )
