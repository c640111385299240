"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from layerdial.request import Request

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
    text = Request.help(name)
    return f"{text[0].upper()}{text[1:]}."


def load_own(plugins: list[str] | None) -> None:
    """Execute the files of `--plugin`, if there are any: what reads them takes a while to import."""
    if plugins:
        from layerdial.config.plugins import load_plugins

        load_plugins(plugins)
