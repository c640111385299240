"""`layerdial models`: the models that have names, listed, fetched and entered into the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def list_models(context: typer.Context) -> None:
    """List the models that have names: blocks, WER, size, licence, and where each lies."""
    if context.invoked_subcommand is None:
        from layerdial.registry.table import models_table

        print("\n".join(models_table()))


def fetch_model(name: Annotated[str, typer.Argument(metavar="NAME", help="Such as english.")]) -> None:
    """Fetch a model into the user's cache, if it is not here; an interrupted fetch goes on where it stopped."""
    from layerdial.registry.find import registered_folder

    print(f"{name}: {registered_folder(name)}")


def enter_model(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder that layerdial export wrote.")],
    summary: Annotated[str, typer.Option(help="What the model is, in a line.")],
    name: Annotated[Optional[str], typer.Option(help="Its name; the folder's if left out.")] = None,  # noqa: UP045
    sweep: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="sweep.jsonl of `layerdial sweep FOLDER`, for the WER at each depth."),
    ] = None,
    test_set: Annotated[str, typer.Option(help="What the sweep's cuts are, as the table names them.")] = "",
    source: Annotated[str, typer.Option(help="The URL below which its files lie; empty for the clone alone.")] = "",
) -> None:
    """For maintainers: write a model into the registry, with the sizes and SHA-256 of its files."""
    from layerdial.registry.entries import FILE
    from layerdial.runtime.registering import register_model

    entry = register_model(folder, name or folder.resolve().name, summary, sweep, test_set, source)
    rates = ", ".join(f"{100 * rate.wer:.2f} % at depth {rate.depth}" for rate in entry.rates)
    print(f"{entry.name}: {entry.size / 1e6:.1f} MB in {len(entry.files)} files, licence {entry.licence}")
    print(f"WER:      {rates or 'not given'}")
    print(f"written:  {FILE}")
