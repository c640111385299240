"""`layerdial recipes list` and `layerdial recipes copy`: what comes with the package, to look at and to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def list_recipes() -> None:
    """List the recipes, suites and plugins that come with layerdial, a line each."""
    from layerdial.utils.shipped import list_shipped

    found = list_shipped()
    width = max(len(shipped.name) for shipped in found)
    for shipped in found:
        print(f"{shipped.name:{width}}  {shipped.summary}")


def copy_recipe(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as librispeech-mini or suites/demo.")],
    folder: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(
            metavar="[FOLDER]",
            help="Where its files go; else recipes/NAME or experiments/suites here, as the documents call them.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Copy a recipe with its README and scripts, or a suite with the plugins that it names."""
    from layerdial.utils.shipped import find_shipped, next_command

    shipped = find_shipped(name)
    copies = shipped.copy(folder, force)
    for copy in copies:
        print(copy)
    print(f"next: {next_command(shipped, copies)}")
