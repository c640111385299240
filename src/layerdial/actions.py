"""What the commands do with a model folder and a manifest, for the command line, the demo and scripts alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layerdial.data.batching import FeatureBatches
from layerdial.files import check_writable
from layerdial.ladder import Ladder
from layerdial.models.checkpoint import fingerprint, resolve_model
from layerdial.models.recognizer import load_model
from layerdial.progress import progress
from layerdial.search import Metric, most_evaluations, search_ladder
from layerdial.sweep import Timing, select_subsets, sweep


def search_model(
    folder: Path, cuts: Path, metric: Metric = "loss", device: str = "cpu", workers: int = 1
) -> tuple[Path, Ladder]:
    """Search the ladder of a model on `cuts` (dev data, never test) and store it as `ladder.json` beside the weights.

    Returns the model's folder (for a hub id, that in the hub's cache) and the ladder. An interrupted search goes on
    where it stopped.
    """
    folder = resolve_model(folder)
    recognizer = load_model(folder, device)
    batches = FeatureBatches(cuts, recognizer.features, workers=workers)
    journal = folder / "search.jsonl"
    check_writable(folder)
    with progress(f"search {_name(folder)}", most_evaluations(recognizer.n_blocks)) as update:
        ladder = search_ladder(
            recognizer,
            batches,
            metric,
            cuts=str(cuts),
            progress=update,
            journal=journal,
            fingerprint=f"{fingerprint(folder)}/{cuts}",
        )
    ladder.save(folder / "ladder.json")
    journal.unlink(missing_ok=True)
    return folder, ladder


def sweep_model(
    folder: Path,
    cuts: Path,
    depths: Sequence[int] | None,
    select: str,
    out: Path | None,
    method: str | None = None,
    device: str = "cpu",
    workers: int = 1,
    seed: int = 0,
    timing: Timing | None = None,
    batches: FeatureBatches | None = None,
) -> list[dict[str, Any]]:
    """Measure a model at each depth; rows are appended to `out/sweep.jsonl` as they are made, see `layerdial.sweep`."""
    folder, name = resolve_model(folder), folder
    recognizer = load_model(folder, device)
    select = select or ("ladder" if recognizer.ladder else "even")
    subsets = select_subsets(select, depths, recognizer.n_blocks, recognizer.ladder, seed)
    labels = {
        "method": method,
        "select": select,
        "model": str(name),
        "fingerprint": fingerprint(folder),
        "cuts": str(cuts),
        "device": str(recognizer.device),
    }
    batches = batches or FeatureBatches(cuts, recognizer.features, workers=workers)
    if out:
        check_writable(out)
    with progress(f"sweep {method or _name(name)}", len(subsets)) as update:
        return list(
            sweep(
                recognizer,
                batches,
                subsets,
                out,
                {k: v for k, v in labels.items() if v is not None},
                timing=timing or Timing(),
                title=f"{_name(name)} on {cuts.name.split('.')[0]}" if method is None else "",
                progress=update,
            )
        )


def _name(folder: Path) -> str:
    """`runs/demo/dld/model` is called dld."""
    return folder.resolve().parent.name if folder.name == "model" else folder.name
