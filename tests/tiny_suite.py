"""A suite of tiny networks on the corpus of tones, and rows of runs that never were."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from layerdial.suites.plan import choose, jobs_left, plan
from layerdial.suites.suite import Suite, load_suite

METHODS: dict[str, Any] = {
    "reference": {"set": {"policy": {"name": "none"}}},
    "static_2": {"method": "static", "set": {"model.n_blocks": 2, "policy": {"name": "none"}}},
    "ld": {},
    "dld": {"reference": "reference", "set": {"objective.distil.weight": 1.0}},
}


def suite_data(folder: Path, train: Path, dev: Path, **changes: Any) -> dict[str, Any]:
    """Networks of three blocks that learn the tones to some degree in 20 steps."""
    recipe = {
        "model": {"n_blocks": 3, "width": 32, "heads": 2, "ffn_width": 64, "kernel": 5, "dropout": 0.0},
        "tokenizer": {"kind": "word"},
        "data": {"train": str(train), "dev": str(dev), "batch_seconds": 6, "buckets": 2, "workers": 0, "speeds": []},
        "spec_augment": {"freq_masks": 0, "time_masks": 0},
        "policy": {"name": "uniform_count"},
        "optim": {"lr": 3e-3, "warmup_steps": 10},
        "train": {"steps": 20, "log_every": 1, "eval_every": 5, "eval_depths": [1, 3]},
    }
    data = {
        "suite": 2,
        "name": "tones",
        "out": str(folder / "out"),
        "corpus": "tones",
        "test": {"test": str(dev)},
        "seeds": [0, 1],
        "depths": [1, 2, 3],
        "recipe": recipe,
        "methods": METHODS,
    }
    return data | changes


def write_suite(folder: Path, data: dict[str, Any]) -> Path:
    file = folder / "suite.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def tiny_suite(folder: Path, *overrides: str, **changes: Any) -> Suite:
    """A suite whose data need not be there."""
    manifests = folder / "train.cuts.jsonl.gz", folder / "dev.cuts.jsonl.gz"
    return load_suite(write_suite(folder, suite_data(folder, *manifests, **changes)), overrides)


def made_up_row(
    suite: Suite, name: str, seed: int, depth: int, errors: Sequence[int], words: int = 10
) -> dict[str, Any]:
    """A row of utterances with these errors in `words` words each, with its file."""
    file = suite.out / f"utterances/{name}-{seed}-{depth}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    counts = [{"id": str(i), "errors": e, "words": 10, "char_errors": 0, "chars": 1} for i, e in enumerate(errors)]
    file.write_text("".join(json.dumps(count) + "\n" for count in counts))
    return {
        "method": suite.label(name),
        "name": name,
        "seed": seed,
        "test": "test",
        "depth": depth,
        "n_blocks": 4,
        "wer": sum(errors) / 10 / len(errors),
        "cer": 0.0,
        "words": 10 * len(errors),
        "chars": len(errors),
        "macs_per_second": 1e6 * depth,
        "utterances_file": str(file.relative_to(suite.out)),
    }


def left(suite: Suite, only: Sequence[str] = (), seeds: Sequence[int] = ()) -> set[str]:
    """The names of the jobs that are left to do."""
    runs = plan(suite)
    return {job.name for job in jobs_left(suite, runs, choose(suite, runs, only, seeds))}
