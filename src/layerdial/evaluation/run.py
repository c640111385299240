"""Evaluation of a model folder on a manifest, for the command line, the demo and scripts alike.

A model folder holds a torch model or an exported one. Both transcribe, and both can be swept and searched.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerdial.audio.files import SAMPLE_RATE
from layerdial.errors import UserError
from layerdial.evaluation.emission import known_words
from layerdial.evaluation.latency import Times
from layerdial.evaluation.load import load_model
from layerdial.evaluation.search import Metric, most_evaluations, search_ladder
from layerdial.evaluation.searches import searches_of
from layerdial.evaluation.sweep import sweep
from layerdial.ladder import Ladder, select_all
from layerdial.recognizer import Recognizer
from layerdial.registry.find import model_folder
from layerdial.request import Request
from layerdial.runtime.manifest import Manifest
from layerdial.runtime.session import is_exported
from layerdial.subset import Blocks, in_chunks
from layerdial.text.normalisers import Normalizer, normalizer_of
from layerdial.utils.files import check_writable, contents, model_name
from layerdial.utils.progress import progress

if TYPE_CHECKING:
    from layerdial.data.batching import FeatureBatches

FEW_WORDS = 500
PREVIOUS_LADDER = "ladder.previous.json"
_log = logging.getLogger(__name__)


def resolve(model: Path) -> tuple[Path, str]:
    """Return the folder of a model, and a hash of its weights."""
    model = model_folder(model)
    if is_exported(model):
        return model, Manifest.load(model).model_id
    from layerdial.models.checkpoint import fingerprint, resolve_model

    folder = resolve_model(model)
    return folder, fingerprint(folder)


def search_model(
    folder: Path,
    cuts: Path,
    metric: Metric | None = None,
    device: str = "cpu",
    workers: int = 1,
    batches: FeatureBatches | None = None,
    normalizer: Normalizer = "basic",
) -> tuple[Path, Ladder]:
    """Search the ladder of a model on `cuts` (dev data, never test) and store it as `ladder.json` beside the weights.

    `metric` is the loss unless given, and WER for an exported model, which has texts alone. `batches` are those of
    `cuts` where the caller has them already.
    A ladder that is there already stays as `ladder.previous.json`. Fewer than 500 words are warned of.
    Returns the model's folder (for a hub id, that in the hub's cache) and the ladder. An interrupted search goes on
    where it stopped.
    """
    from layerdial.data.batching import FeatureBatches

    normalizer_of(normalizer)
    folder, weights = resolve(folder)
    recognizer = load_model(folder, device)
    batches = batches or FeatureBatches(cuts, recognizer.features, workers=workers)
    if metric == "loss" and not recognizer.has_loss:
        raise UserError(f"{folder} is exported and gives texts alone; search it by --metric wer")
    journal = folder / "search.jsonl"
    check_writable(folder)
    with progress(f"search {model_name(folder)}", most_evaluations(recognizer.n_blocks)) as update:
        ladder = search_ladder(
            recognizer,
            batches,
            metric or ("loss" if recognizer.has_loss else "wer"),
            cuts=str(cuts),
            progress=update,
            journal=journal,
            fingerprint=f"{weights}/{contents(cuts)}" + (f"/{normalizer}" if normalizer != "basic" else ""),
            normalizer=normalizer,
        )
    _keep_other(folder / "ladder.json", ladder)
    ladder.save(folder / "ladder.json")
    journal.unlink(missing_ok=True)
    return folder, ladder


def _keep_other(file: Path, ladder: Ladder) -> None:
    """Keep the ladder that is replaced; log on how many words both rest."""
    words = ladder.rungs[-1].words
    if words < FEW_WORDS:
        _log.warning(
            "%s rests on %d words; below %d it is chance that chooses, give more dev cuts", file, words, FEW_WORDS
        )
    if not file.is_file():
        return
    with suppress(UserError):  # a damaged one can be replaced
        before = Ladder.load(file)
        if before != ladder:
            kept = file.with_name(PREVIOUS_LADDER)
            before.save(kept)
            _log.info("the ladder that was there, found on %d words, is kept as %s", before.rungs[-1].words, kept)


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
    threads: int | None = None,
    timing: Times | None = None,
    batches: FeatureBatches | None = None,
    normalizer: Normalizer = "basic",
    request: Request | None = None,
    chunk_frames: Sequence[int | None] = (),
) -> list[dict[str, Any]]:
    """Measure a model at each depth. Rows are appended to `out/sweep.jsonl` as they are made; see `sweep`.

    With `chunk_frames` each depth is measured in chunks of each of these sizes, in frames of the encoder; none stands
    for whole utterances. Raises `UserError` for a model that does not take chunks.
    """
    from layerdial.data.batching import FeatureBatches

    normalizer_of(normalizer)
    name = folder
    folder, weights = resolve(folder)
    recognizer = load_model(folder, device, threads)
    rule = select or ("ladder" if recognizer.ladder else "even")
    subsets: list[Blocks] = select_all(rule, depths, recognizer.n_blocks, recognizer.ladder, seed)
    if chunk_frames:
        check_streaming(recognizer)
        subsets = [in_chunks(subset, frames) for frames in chunk_frames for subset in subsets]
    labels = {
        "method": method,
        "select": rule,
        "model": str(name),
        "fingerprint": weights,
        "cuts": str(cuts),
        "cuts_contents": contents(cuts),
    }
    searches = searches_of(request)
    for asked in filter(None, searches):  # what it cannot do is said before the work
        recognizer.answer(np.zeros(SAMPLE_RATE, np.float32), asked)
    batches = batches or FeatureBatches(cuts, recognizer.features, workers=workers)
    if out:
        check_writable(out)
    with progress(f"sweep {method or model_name(name)}", len(subsets) * len(searches)) as update:
        return list(
            sweep(
                recognizer,
                batches,
                subsets,
                out,
                {k: v for k, v in labels.items() if v is not None},
                timing=timing,
                title=f"{model_name(name)} on {cuts.name.split('.')[0]}" if method is None else "",
                progress=update,
                normalizer=normalizer,
                request=request,
                words=known_words(cuts) if chunk_frames else None,
            )
        )


def check_streaming(recognizer: Recognizer) -> None:
    """Raise `UserError` unless the recogniser is of torch and takes speech in chunks."""
    from layerdial.models.streaming import streaming_network
    from layerdial.models.torch_recognizer import TorchRecognizer

    if not isinstance(recognizer, TorchRecognizer):
        raise UserError(f"{recognizer.name} is exported; chunks are measured with the model that it was exported from")
    streaming_network(recognizer.network, recognizer.name)
