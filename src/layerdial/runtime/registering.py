"""The entry of an exported folder in the registry, with what its manifest, its files and a sweep say."""

from __future__ import annotations

import re
from pathlib import Path

from layerdial.errors import UserError
from layerdial.ladder import Ladder, select_all
from layerdial.registry.entries import Entry, ModelFile, Rate, read_entries, write_entries
from layerdial.runtime.manifest import Manifest, check_export
from layerdial.utils.checksums import checksum
from layerdial.utils.rows import read_rows

_OF_THIS_DEVICE = re.compile(r"profile\.json|confidence\.png|search\.jsonl|ladder\.previous\.json|\..*")


def register_model(folder: Path, name: str, summary: str, sweep: Path | None, test_set: str, source: str) -> Entry:
    """Write the entry of an exported folder into the registry, in the place of one of that name, and return it.

    `sweep` has rows of `layerdial sweep` for this folder, measured on `test_set`. Raises `UserError` for a folder that
    is damaged or states no licence, and for rows of other weights.
    """
    manifest = Manifest.load(folder)
    check_export(folder)
    if manifest.licence == "not stated":
        raise UserError(f"{folder} states no licence; export it again with --licence")
    if (sweep is None) != (not test_set):
        raise UserError("--sweep and --test-set belong together: the WER, and on what it was measured")
    files = [file for file in sorted(folder.iterdir()) if not _OF_THIS_DEVICE.fullmatch(file.name)]
    rates = () if sweep is None else _rates(sweep, manifest, Ladder.beside(folder, manifest.n_blocks))
    listed = tuple(ModelFile(file.name, file.stat().st_size, checksum(file)) for file in files)
    try:
        entry = Entry(name, summary, manifest.licence, manifest.n_blocks, test_set, rates, source, listed)
    except ValueError as error:
        raise UserError(f"{folder} cannot be entered: {error}") from None
    write_entries([*(other for other in read_entries().values() if other.name != name), entry])
    return entry


def _rates(sweep: Path, manifest: Manifest, ladder: Ladder | None) -> tuple[Rate, ...]:
    """Return the rates of the blocks that the model runs at each depth, deepest first, as far as they were measured."""
    rows = [row for row in read_rows(sweep) if row.get("fingerprint") == manifest.model_id]
    latest = {row["subset"]: row for row in rows}
    rule = "ladder" if ladder else "even"
    subsets = select_all(rule, None, manifest.n_blocks, ladder)
    measured = [(subset.depth, latest[subset.key]) for subset in reversed(subsets) if subset.key in latest]
    if not measured:
        raise UserError(f"{sweep} has no row of this model ({manifest.model_id}); sweep its folder first")
    if len({(row.get("cuts_contents"), row.get("normalizer")) for _, row in measured}) > 1:
        raise UserError(f"{sweep} has rows of several cuts or normalizers; sweep the folder once, into a new --out")
    return tuple(Rate(depth, row["errors"], row["words"]) for depth, row in measured)
