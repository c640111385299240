"""What several test files use: one corpus of tones, and one dynamic model that has learnt it."""

from __future__ import annotations

import fcntl
import gc
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks are slower on many threads, and forks are safe on one

import pytest

from layerdial.utils import notices

notices.cache_folder = lambda: None  # tests leave nothing in the user's folder
# Nothing pulls the plug here, and to wait for the disk takes longer than most tests. Programs that a test starts wait.
os.fsync = os.fstat  # type: ignore[assignment]

if TYPE_CHECKING:
    from layerdial.models.torch_recognizer import TorchRecognizer


# what they assert is explained as in a test
pytest.register_assert_rewrite("tiny_graphs", "tiny_registry", "tiny_streaming_export", "tiny_training")

# what takes seconds to make; a test that uses one of these fixtures is left out of `make test-fast`
TAKES_SECONDS = {
    *("trace_tiny", "exported_old", "workshop", "demo_run", "profiled"),
    *("streaming_folders", "online_folders"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if TAKES_SECONDS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.medium)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What is imported stays to the end: the garbage collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` that `make` fills; one process makes it, and the others of a parallel run wait for it."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = root / name / ".done"
        if not done.exists():
            make(root / name)
            done.touch()
    return root / name


@dataclass(frozen=True)
class Corpus:
    """Two manifests of spoken tones."""

    train: Path
    dev: Path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    from tiny import sentences, write_corpus

    def make(folder: Path) -> None:
        write_corpus(folder / "train.cuts.jsonl.gz", sentences(60, seed=0))
        write_corpus(folder / "dev.cuts.jsonl.gz", sentences(5, seed=1))

    folder = made_once(tmp_path_factory, "corpus", make)
    return Corpus(folder / "train.cuts.jsonl.gz", folder / "dev.cuts.jsonl.gz")


@pytest.fixture(scope="session")
def learnt(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a run that learnt the corpus at every depth, by layer dropping from scratch."""
    from layerdial.training.loop import train
    from tiny import tiny_recipe

    changes = ("train.steps=60", "train.eval_every=60", "train.eval_depths=[1,2,3]")

    def make(folder: Path) -> None:
        train(tiny_recipe(folder / "run", corpus.train, corpus.dev, *changes))

    return made_once(tmp_path_factory, "learnt", make) / "run" / "model"


@pytest.fixture(scope="session")
def recognizer(learnt: Path) -> TorchRecognizer:
    from layerdial import load_model

    return load_model(learnt)
