"""One job of a suite in a worker: train an entry with a seed, search its ladder, test its depths."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from layerdial.config.plugins import load_plugins
from layerdial.evaluation.emission import Known, evaluate_with_delay, known_words
from layerdial.evaluation.sweep import measure_again, measure_subset, utterance_lines
from layerdial.ladder import select_all
from layerdial.subset import in_chunks
from layerdial.suites.rows import labels, measured_for
from layerdial.suites.suite import Origin, Suite
from layerdial.suites.training_record import Trained, train_entry
from layerdial.utils.files import write_json, write_text
from layerdial.utils.rows import Row, append_row, read_rows

if TYPE_CHECKING:
    from layerdial.audio.features import Features
    from layerdial.data.batching import FeatureBatches


def run_job(suite: Suite, name: str, seed: int, origin: Origin) -> None:
    """Train, search, test. What an earlier call finished is left as it is. Rows go to `rows.jsonl` in the folder."""
    from layerdial.evaluation.load import load_model
    from layerdial.evaluation.run import search_model
    from layerdial.models.checkpoint import fingerprint

    load_plugins(suite.plugins)  # the network may be theirs, and trained already
    folder, model, device = suite.folder(name, seed), suite.model(name, seed), device_of_suites()
    if not (folder / "asked.json").is_file():
        write_json(folder / "asked.json", origin.asked)
    trained = train_entry(suite, name, seed, origin.commit)
    weights = fingerprint(model)
    select = suite.select_of(name)
    recognizer = load_model(model, device)
    ladder = recognizer.ladder
    if select == "search" and ladder is None:
        dev = suite.recipe_of(name, seed).data.dev
        _, ladder = search_model(model, dev, device=device, batches=_features_of(dev, recognizer.features))
    rule = "ladder" if select == "search" else select
    subsets = select_all(rule, suite.depths_of(name), recognizer.n_blocks, ladder)
    done = {measured_for(row) for row in read_rows(folder / "rows.jsonl")}
    for test, hearing in suite.hearings_of(name).items():
        cuts = suite.test[hearing.test]
        batches, words = _features_of(cuts, recognizer.features), _known_words(cuts)
        for depth, subset in zip(suite.depths_of(name), subsets, strict=True):
            row = labels(suite, (name, seed), origin, test, depth) | {"fingerprint": weights}
            if measured_for(row) in done:
                continue
            first, *others = suite.normalizers
            blocks = in_chunks(subset, hearing.chunk_frames)
            evaluation, delay = evaluate_with_delay(recognizer, batches, blocks, words, first)
            row = measure_subset(recognizer, evaluation, blocks) | row | delay | _took(trained, origin)
            for other in others:
                row |= measure_again(evaluation, other)
            row |= {"n_blocks": recognizer.n_blocks, "rejected": len(batches.rejected)}
            row["utterances_file"] = f"utterances/{name}-{seed}-{test}-{depth}-{select}-{weights[:8]}.jsonl"
            write_text(suite.out / row["utterances_file"], utterance_lines(evaluation))
            append_row(folder / "rows.jsonl", row)


def _took(trained: Trained, origin: Origin) -> Row:
    return {
        "commit": trained.commit or origin.commit,
        "updates": trained.updates,
        "updates_spent": trained.updates_spent,
        "round": trained.round,
        "train_seconds": round(trained.train_seconds, 1),
        "total_train_seconds": round(trained.total_train_seconds, 1),
        "audio_seconds_seen": round(trained.audio_seconds_seen, 1),
        "dev_mean": trained.dev_mean,
    }


def device_of_suites() -> str:
    """Return the device on which suites train and test: a GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


_kept: dict[tuple[Path, Features], FeatureBatches] = {}


@cache
def _known_words(cuts: Path) -> Known:
    """Return the words of a manifest that have times, which all jobs of a worker use."""
    return known_words(cuts)


def _features_of(cuts: Path, features: Features) -> FeatureBatches:
    """Return the batches of a manifest with their features, which all jobs of a worker use."""
    from layerdial.data.batching import FeatureBatches

    if (cuts, features) not in _kept:
        _kept[cuts, features] = FeatureBatches(cuts, features, workers=0, by_length=True)
    return _kept[cuts, features]
