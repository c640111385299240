"""`layerdial export`: from a torch model to a folder, in one of three precisions, for layerdial or for sherpa-onnx."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from layerdial.data.batching import FeatureBatches
from layerdial.data.manifest import open_cuts
from layerdial.errors import UserError
from layerdial.export.precision import to_float16, to_int8
from layerdial.export.quality import quantise
from layerdial.export.sherpa import write_sherpa_folder
from layerdial.export.writer import Precision, Traced, trace, write_folder
from layerdial.runtime.manifest import FILE, KIND, SHERPA_KIND, Manifest
from layerdial.subset import BlockSubset
from layerdial.utils.files import check_writable, read_json


def export_model(
    folder: Path,
    out: Path,
    precision: Precision = "float32",
    cuts: Path | None = None,
    licence: str | None = None,
    name: str | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Manifest:
    """Export a torch model (folder or hub id) to `out`, which is replaced as a whole.

    int8 is checked on `cuts` (dev data) at every depth, and blocks that it hurts stay in float. Without cuts only the
    difference of posteriors is known. Raises `UserError` for a model that cannot be exported.
    """
    out = out.resolve()
    _check_place(out)
    if cuts is not None:
        open_cuts(cuts)  # errors in them are reported before the work
    traced = trace(folder, licence, name, note)
    manifest = replace(traced.manifest, precision=precision)
    if precision == "float32":
        return write_folder(out, traced, traced.model, manifest)
    if precision == "float16":
        return write_folder(out, traced, to_float16(traced.model), manifest)
    if cuts is None:
        return write_folder(out, traced, to_int8(traced.model), manifest)
    return _write_checked(out, traced, manifest, cuts, note)


def _write_checked(out: Path, traced: Traced, manifest: Manifest, cuts: Path, note: Callable[[str], None]) -> Manifest:
    found = quantise(traced, FeatureBatches(cuts, traced.network.features, workers=0), note)
    if not found.holds:
        note("WER is worse even with every block in float; export without --int8, or check on more cuts")
    checked = {"cuts": str(cuts), "holds": found.holds, "rows": list(found.rows)}
    manifest = replace(manifest, float_blocks=found.float_blocks, wer=checked)
    return write_folder(out, traced, found.model, manifest)


def _check_place(out: Path) -> None:
    """Raise `UserError` unless `out`, which is replaced, is new, empty, or an earlier export."""
    if out.is_file():
        raise UserError(f"{out} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not _is_export(out):
        raise UserError(f"{out} holds something that is no export; name a new folder, or remove it")
    check_writable(out.parent)


def _is_export(folder: Path) -> bool:
    if not (folder / FILE).is_file():
        return False
    stored = read_json(folder / FILE)
    return isinstance(stored, dict) and stored.get("kind") in (KIND, SHERPA_KIND)


def export_sherpa(
    folder: Path,
    out: Path,
    depth: int,
    precision: Precision = "float32",
    licence: str | None = None,
    name: str | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> BlockSubset:
    """Export the blocks that run at `depth` for the sherpa-onnx package; see `layerdial.export.sherpa`."""
    out = out.resolve()
    _check_place(out)
    return write_sherpa_folder(out, trace(folder, licence, name, note), depth, precision)
