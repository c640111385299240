"""`layerdial train`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from layerdial.cli.options import CutsArgument, DeviceOption, ModelArgument


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


def pseudo_label(
    model: ModelArgument,
    cuts: CutsArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new manifest, such as data/x/own.cuts.jsonl.gz.")],
    words: Annotated[
        str,
        typer.Option(
            help="transcript: the corpus' words with the model's capitals and punctuation; recognised: the model's."
        ),
    ] = "transcript",
    max_wer: Annotated[float, typer.Option(min=0, help="Leave out cuts with more errors than this, a fraction.")] = 0.3,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 where the processor has it: faster.")] = "fp32",
    device: DeviceOption = "cpu",
) -> None:
    """Write CUTS with the texts that MODEL recognises: targets in its own style, for its students."""
    from layerdial.training.pseudo_labels import write_pseudo_labels

    found = write_pseudo_labels(model, cuts, out, words, max_wer, precision, device)
    print(f"{out}: {found.kept} cuts, {found.left_out} left out for their errors, {found.unread} not readable")
