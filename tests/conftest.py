"""What several test files use: one corpus of tones, and one dynamic model that has learnt it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks are slower on many threads, and forks are safe on one

import pytest

if TYPE_CHECKING:
    from layerdial.models.recognizer import TorchRecognizer


@dataclass(frozen=True)
class Corpus:
    """Two manifests of spoken tones."""

    train: Path
    dev: Path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    from tiny import sentences, write_corpus

    folder = tmp_path_factory.mktemp("corpus")
    return Corpus(
        write_corpus(folder / "train.cuts.jsonl.gz", sentences(60, seed=0)),
        write_corpus(folder / "dev.cuts.jsonl.gz", sentences(5, seed=1)),
    )


@pytest.fixture(scope="session")
def learnt(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a run that learnt the corpus at every depth, by layer dropping from scratch."""
    from layerdial.training.loop import train
    from tiny import tiny_recipe

    run = tmp_path_factory.mktemp("learnt") / "run"
    changes = ("train.steps=60", "train.eval_every=60", "train.eval_depths=[1,2,3]")
    return train(tiny_recipe(run, corpus.train, corpus.dev, *changes))


@pytest.fixture(scope="session")
def recognizer(learnt: Path) -> TorchRecognizer:
    from layerdial import load_model

    return load_model(learnt)
