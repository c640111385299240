"""`layerdial export`: from a torch model to a folder, in one of three precisions, for layerdial or for sherpa-onnx."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from layerdial.data.batching import FeatureBatches
from layerdial.data.manifest import open_cuts
from layerdial.errors import WorseThanFloat
from layerdial.export.place import check_place
from layerdial.export.precision import to_float16
from layerdial.export.quality import quantise, quantised
from layerdial.export.sherpa import write_sherpa_folder, write_sherpa_online_folder
from layerdial.export.streaming import Streaming
from layerdial.export.writer import Precision, Traced, describe, refuse_exported, trace, write_folder
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
    force: bool = False,
    accept: bool = False,
    streaming: Streaming | None = None,
) -> Manifest:
    """Export a torch model (folder or hub id) to `out`; an export that is there is replaced as a whole with `force`.

    With `streaming` the graph takes chunks of any size, and caches; see `layerdial.export.streaming`.

    int8 is checked on `cuts` (dev data) at every depth, and blocks that it hurts stay in float; without cuts only the
    difference of posteriors is known. Raises `UserError` for a model that cannot be exported, and `WorseThanFloat`,
    with nothing written, where int8 does worse all the same, unless you `accept` that.
    """
    out = out.resolve()
    refuse_exported(folder)
    check_place(out, force)
    if cuts is not None:
        open_cuts(cuts)  # errors in them are reported before the work
    traced = trace(folder, licence, name, note, streaming)
    manifest = replace(traced.manifest, precision=precision)
    if precision == "float32":
        return write_folder(out, traced, traced.model, manifest, decoder=traced.decoder)
    if precision == "float16":
        decoder = traced.decoder and to_float16(traced.decoder)
        return write_folder(out, traced, to_float16(traced.model), manifest, decoder=decoder)
    if cuts is None:
        model, decoder = quantised(traced)
        return write_folder(out, traced, model, manifest, decoder=decoder)
    return _write_checked(out, traced, manifest, cuts, note, accept)


def _write_checked(
    out: Path, traced: Traced, manifest: Manifest, cuts: Path, note: Callable[[str], None], accept: bool
) -> Manifest:
    found = quantise(traced, FeatureBatches(cuts, traced.network.features, workers=0), note)
    if not found.holds and not accept:
        before, after = (sum(row[f"{kind}_errors"] for row in found.rows) for kind in ("float", "int8"))
        raise WorseThanFloat(
            f"{out} is not written: int8 makes {after} word errors on {cuts} where float makes {before}, even with "
            "every block in float; export without --int8, check on more cuts, or add --accept"
        )
    checked: dict[str, Any] = {"cuts": str(cuts), "holds": found.holds, "rows": list(found.rows)}
    if manifest.streaming is not None:
        checked["chunk_ms"] = manifest.streaming.in_chunks().file_chunk_ms
    manifest = replace(manifest, float_blocks=found.float_blocks, wer=checked)
    return write_folder(out, traced, found.model, manifest, decoder=found.decoder)


def export_sherpa(
    folder: Path,
    out: Path,
    depth: int,
    precision: Precision = "float32",
    licence: str | None = None,
    name: str | None = None,
    note: Callable[[str], None] = lambda text: None,
    force: bool = False,
) -> BlockSubset:
    """Export the blocks that run at `depth` for the sherpa-onnx package; see `layerdial.export.sherpa`."""
    out = out.resolve()
    refuse_exported(folder)
    check_place(out, force)
    return write_sherpa_folder(out, trace(folder, licence, name, note), depth, precision)


def export_sherpa_online(
    folder: Path,
    out: Path,
    depth: int,
    chunk_ms: int,
    precision: Precision = "float32",
    licence: str | None = None,
    name: str | None = None,
    force: bool = False,
) -> BlockSubset:
    """Export the blocks that run at `depth`, in chunks of one size; see `layerdial.export.sherpa_online`."""
    out = out.resolve()
    refuse_exported(folder)
    check_place(out, force)
    described = describe(folder, licence, name, Streaming(chunk_ms))
    return write_sherpa_online_folder(out, described, depth, chunk_ms, precision)
