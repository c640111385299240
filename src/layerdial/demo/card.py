"""The card of a demo model: README.md in its folder, with method, data, words, error rates and licences."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from layerdial import __version__
from layerdial.data.synthesis.demo_corpus import VOCABULARY
from layerdial.ladder import Ladder
from layerdial.utils.files import write_text
from layerdial.utils.records import parsing, read_record

if TYPE_CHECKING:
    from layerdial.data.manifest import CorpusReport
    from layerdial.utils.rows import Row

NAMES = {
    "reference": "no dropping in training",
    "ld": "layer dropping",
    "dld": "DLD",
    "sc_exits": "self-conditioned exits",
}
WORDS = f"synthetic voices only, and these {len(VOCABULARY)} words alone: {', '.join(VOCABULARY)}."
_METHODS = {
    "reference": "All blocks run in every training step, with the CTC loss. Running fewer blocks is not trained.",
    "ld": "Layer dropping (LD): every training step draws a number of blocks, then which ones run. The loss is CTC.",
    "dld": (
        "Distillation-based layer dropping (DLD, arXiv 2601.16117): layer dropping, and besides CTC the KL divergence "
        "from the posteriors of a frozen reference."
    ),
    "sc_exits": (
        "Self-conditioned exits: the CTC loss after every block in every training step (early exit, shallow blocks "
        "weighted more), and each block receives the CTC posteriors of the block before it (self-conditioned CTC, "
        "arXiv 2104.02724)."
    ),
}
_STARTS = {"scratch": "from random weights", "reference": "from the weights of `reference`"}
_WIDTH = 100
_CARD = """\
# {method}: spoken digits and commands, any depth from 1 to {n_blocks} blocks

{description}

A Conformer of {n_blocks} blocks, {parameters:.2f} million parameters; {updates:,} updates {start}.
Made by `layerdial demo` with layerdial {version}, code {commit}.

## Words

{words}

No recording of a person is in its training or test data.

## Data

Connected digits and commands by espeak-ng voices, with noise of 10 to 30 dB SNR. No voice variant is in two splits.

{data}

## Word error rate on test

Which blocks run at a depth is in `ladder.json`; it was {ladder}.

{rates}

## Use

```bash
{command}
```

## Licence

The speech was read by espeak-ng (GPL-3.0-or-later), which is not part of this folder. The code, layerdial, is
Apache-2.0.
"""


def write_card(folder: Path, method: str, rows: Sequence[Row], corpus: CorpusReport, command: str) -> None:
    """Write `README.md` into a model folder.

    `rows` are the sweep's of this model, shallowest first; `command` is one that uses it.
    """
    remedy = "remove its folder and start the demo again"
    meta = read_record(folder / "meta.json", remedy)
    ladder = Ladder.load(folder / "ladder.json").metric
    with parsing(folder / "meta.json", remedy):
        card = _CARD.format(
            method=method,
            n_blocks=rows[-1]["depth"],
            description=textwrap.fill(_METHODS[method], _WIDTH),
            parameters=meta["parameters"] / 1e6,
            updates=meta["updates"],
            start=_STARTS[meta["recipe"]["init"]],
            version=__version__,
            commit=meta["commit"],
            words=textwrap.fill(f"The model knows {WORDS}", _WIDTH),
            data=_data_table(corpus),
            ladder="fixed by the training" if ladder == "trained" else "searched on dev, by CTC loss",
            rates=_rates_table(rows),
            command=command,
        )
    write_text(folder / "README.md", card)


def _data_table(corpus: CorpusReport) -> str:
    lines = ["| split | utterances | minutes | voices (variant and accent) |", "|---|---|---|---|"]
    for name, split in corpus.splits.items():
        lines.append(f"| {name} | {split.cuts} | {60 * split.hours:.1f} | {split.speakers} |")
    return "\n".join(lines)


def _rates_table(rows: Sequence[Row]) -> str:
    lines = ["| blocks | subset | WER in % (95 % interval) | errors / words | million MACs per second |"]
    lines.append("|---|---|---|---|---|")
    for row in rows:
        rate = f"{100 * row['wer']:.1f} ({100 * row['wer_low']:.1f}-{100 * row['wer_high']:.1f})"
        errors, macs = f"{row['errors']} / {row['words']}", f"{row['macs_per_second'] / 1e6:.0f}"
        lines.append(f"| {row['depth']} | `{row['subset']}` | {rate} | {errors} | {macs} |")
    return "\n".join(lines)
