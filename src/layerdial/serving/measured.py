"""What is known of a model's depths: errors by the registry or the model's ladder, and times on this machine."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

from layerdial.ladder import Ladder
from layerdial.registry.entries import Entry, read_entries
from layerdial.runtime.manifest import FILE
from layerdial.runtime.recognizer import OnnxRecognizer
from layerdial.utils.checksums import checksum

_SECONDS = 10.0  # of the sound whose time counts


def measured_levels(recognizer: OnnxRecognizer) -> dict[str, Any]:
    """Return `levels`, WER and milliseconds for 10 s of sound by depth, and what the WER was `measured_on`.

    There are none for a model whose errors are not known.
    """
    rates, measured_on = known_errors(recognizer.folder, recognizer.ladder)
    costs = recognizer.controller.costs
    levels = [
        {"depth": depth, "wer": round(wer, 5), "ms": round(costs.usual(depth, _SECONDS), 2)}
        for depth, wer in sorted(rates.items())
    ]
    return {"levels": levels, "measured_on": measured_on}


def known_errors(folder: Path, ladder: Ladder | None) -> tuple[dict[int, float], str]:
    """Return the WER of each depth of an exported model, and what it was measured on."""
    entry = _registered(folder)
    if entry is not None and entry.rates:
        return {rate.depth: rate.wer for rate in entry.rates}, entry.test_set
    if ladder is None:
        return {}, ""
    cuts = PurePath(ladder.cuts).name.partition(".")[0]
    return {rung.depth: rung.wer for rung in ladder.rungs}, f"{cuts}, on which its ladder was measured"


def _registered(folder: Path) -> Entry | None:
    """Return the registry's entry of exactly this model, by the hash of its manifest."""
    found = checksum(folder / FILE)
    for entry in read_entries().values():
        if any(file.name == FILE and file.sha256 == found for file in entry.files):
            return entry
    return None
