"""`layerdial train`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Optional

import typer


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml")],
    set_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe, for example optim.lr=5e-4."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with a run that was interrupted.")] = False,
) -> None:
    """Train a reference or a student as the recipe says."""
    from layerdial.config.recipe import load_recipe

    settings = load_recipe(recipe, set_ or [])
    from layerdial.training.loop import train as run

    folder = run(settings, resume)
    if os.environ.get("RANK", "0") != "0":
        return  # under torchrun or accelerate launch only the first process prints
    dev = {name: f"{value:.2%}" for name, value in json.loads((settings.out / "dev.json").read_text()).items()}
    print(f"model: {folder}")
    print(
        "dev:   " + ", ".join(f"{name.removeprefix('dev_').replace('_', ' ')} {value}" for name, value in dev.items())
    )
    if (folder / "ladder.json").is_file():
        print(f"next:  layerdial sweep {folder} TEST_CUTS --out {settings.out.parent / 'sweep'}")
    elif settings.policy.drops:
        print(f"next:  layerdial search {folder} {settings.data.dev}")
