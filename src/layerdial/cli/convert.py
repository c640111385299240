"""`layerdial convert`: models of other software as Hugging Face folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert_ctranslate2(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="model.bin in float16 or float32, config.json, tokenizer.json and vocabulary.txt or vocabulary.json.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The Hugging Face folder.")],
) -> None:
    """Write a Whisper model of CTranslate2, as faster-whisper takes it, as a Hugging Face folder."""
    from layerdial.errors import needing

    with needing("hf", "converting needs"):
        from layerdial.models.huggingface.ctranslate2 import convert_ctranslate2 as run

    config = run(folder, out)
    blocks = f"{config.encoder_layers} encoder blocks, {config.decoder_layers} decoder blocks"
    print(f"model: {out} ({blocks}, width {config.d_model}, {config.num_mel_bins} mel bins)")
