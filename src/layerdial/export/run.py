"""`layerdial export`: from a torch model to a folder, in one of three precisions, for us or for sherpa-onnx."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from layerdial.errors import UserError
from layerdial.export.folder import Precision, trace, write_folder
from layerdial.export.precision import to_float16, to_int8
from layerdial.export.quality import quantise
from layerdial.export.sherpa import write_sherpa_folder
from layerdial.files import check_writable
from layerdial.runtime.manifest import Manifest
from layerdial.subset import BlockSubset


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

    int8 is checked on `cuts` (dev data) at every depth, and blocks that it hurts stay in float; without cuts only the
    difference of posteriors is known. Raises `UserError` for a model that cannot be exported.
    """
    _check_place(out)
    traced = trace(folder, licence, name)
    manifest = replace(traced.manifest, precision=precision)
    model = traced.model
    if precision == "float16":
        model = to_float16(model)
    elif precision == "int8" and cuts is None:
        model = to_int8(model)
    elif precision == "int8":
        from layerdial.data.batching import FeatureBatches

        assert cuts is not None
        found = quantise(traced, FeatureBatches(cuts, traced.network.features, workers=0), note)
        model = found.model
        manifest = replace(manifest, float_blocks=found.float_blocks, wer={"cuts": str(cuts), "rows": list(found.rows)})
    return write_folder(out, traced, model, manifest)


def _check_place(out: Path) -> None:
    """`out` is replaced: it must be new, empty, or an earlier export."""
    if out.is_dir() and any(out.iterdir()) and not (out / "manifest.json").is_file():
        raise UserError(f"{out} holds something that is no export; name a new folder, or remove it")
    if out.is_file():
        raise UserError(f"{out} is a file; name a folder")
    check_writable(out.parent)


def export_sherpa(
    folder: Path,
    out: Path,
    depth: int,
    precision: Precision = "float32",
    licence: str | None = None,
    name: str | None = None,
) -> BlockSubset:
    """Export the blocks that run at `depth` for the sherpa-onnx package; see `layerdial.export.sherpa`."""
    _check_place(out)
    return write_sherpa_folder(out, trace(folder, licence, name), depth, precision)
