"""`layerdial ngram` and `layerdial tune-decoder`: a language model of words, and its weights for a CTC model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from layerdial.cli.evaluate import parse_numbers
from layerdial.cli.options import (
    DeviceOption,
    ModelArgument,
    NormalizerOption,
    PluginOption,
    WorkersOption,
    help_of,
    load_own,
)


def ngram(
    text: Annotated[
        list[Path],
        typer.Argument(metavar="TEXT... OUT.arpa", help="Text files, a sentence a line, or manifests."),
    ],
    order: Annotated[int, typer.Option(help="How many words a phrase has: 2 to 6.")] = 3,
) -> None:
    """Make an n-gram language model of words from text, or from the transcripts of a manifest."""
    from layerdial.data.sentences import sentences_of
    from layerdial.errors import UserError
    from layerdial.text.ngram import write_ngram

    *sources, out = text
    if not sources:
        raise UserError(
            f"{out} stands alone; give text files or manifests, then the model to be written, such as lm.arpa"
        )
    if out.suffix != ".arpa":
        raise UserError(f"the model would go into {out}; give a file that ends with .arpa behind the text")
    counts = write_ngram((line for source in sources for line in sentences_of(source)), out, order)
    sizes = ", ".join(f"{count:,} of {size}" for size, count in enumerate(counts, 1))
    print(f"model: {out} (n-grams: {sizes} words)")
    print(f"next:  layerdial tune-decoder MODEL DEV_CUTS --lm {out}")


def tune_decoder(
    model: ModelArgument,
    cuts: Annotated[Path, typer.Argument(metavar="DEV", help="A manifest of dev data, never of test data.")],
    lm: Annotated[Path, typer.Option(help=help_of("lm"))],
    hotwords: Annotated[Optional[Path], typer.Option(help=help_of("hotwords"))] = None,  # noqa: UP045
    depths: Annotated[str, typer.Option(help="For example 2,4,12; all if left out.")] = "",
    beams: Annotated[
        str, typer.Option(help="The numbers of beams to choose among, such as 4,8,16; 8 if left out.")
    ] = "",
    device: DeviceOption = "cpu",
    workers: WorkersOption = 1,
    jobs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Processes that search; as many as there are cores if left out."),
    ] = None,
    normalizer: NormalizerOption = "basic",
    plugin: PluginOption = None,
) -> None:
    """Choose the weights of a language model at each depth of a CTC model, and store them as MODEL/decoder.json."""
    load_own(plugin)
    from rich.console import Console

    from layerdial.evaluation.tables import tuned_table
    from layerdial.evaluation.tune import tune_model
    from layerdial.text.hotwords import read_hotwords

    phrases = None if hotwords is None else read_hotwords(hotwords)
    asked, numbers = parse_numbers("--depths", depths), parse_numbers("--beams", beams)
    file, rows = tune_model(
        model,
        cuts,
        lm,
        phrases,
        asked,
        numbers,
        device,
        workers,
        jobs,
        normalizer=normalizer,  # type: ignore[arg-type]
    )
    Console(width=None if sys.stdout.isatty() else 140).print(tuned_table(rows))
    print(f"weights: {file}; used by --lm {lm} where no weights are given")
    print("caution: these errors are on the data of the choice; the gain on other data is smaller")
    print(f"next:    layerdial sweep {model} TEST_CUTS --lm {lm}")
