"""Make the artefacts in this folder: what layerdial wrote at commit 3b18fec, kept to be read by every later version.

Written for commit 3b18fec and runs with that commit alone:

    git worktree add ../then 3b18fec && cp -r tests/old_artefacts ../then/tests
    cd ../then && PYTHONPATH=$PWD/src python tests/old_artefacts/make.py

Times in `profile.json` and `sweep.jsonl` are those of the machine that ran it; all else comes out the same again.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

os.environ["OMP_NUM_THREADS"] = "1"
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from layerdial.actions import search_model  # noqa: E402
from layerdial.config import load_recipe  # noqa: E402
from layerdial.data.manifest import write_cuts  # noqa: E402
from layerdial.training.loop import train  # noqa: E402
from tiny import sentences, speak, write_corpus, write_cut  # noqa: E402

RECIPE = """\
# Layer dropping on tones, with blocks that are told what the ones before them heard: as version 1 of recipes writes it.
#   layerdial train recipe.yaml
recipe: 1
out: runs/tones
model:
  {n_blocks: 3, width: 16, heads: 2, ffn_width: 32, kernel: 5, dropout: 0.0, exit_heads: false, self_condition: true}
tokenizer: {kind: word}
data:
  train: data/train.cuts.jsonl.gz
  dev: data/dev.cuts.jsonl.gz
  batch_seconds: 6
  buckets: 2
  workers: 0
  speeds: []
spec_augment: {freq_masks: 0, time_masks: 0}
policy: {name: uniform_count}
optim: {lr: 3.0e-3, warmup_steps: 10}
train: {steps: 100, log_every: 1, eval_every: 100, threads: 1}
"""


def main() -> None:
    """Work in an empty folder, so that no path of a machine is stored, then put the artefacts here."""
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        make_model()


def make_model() -> None:
    """`recipe.yaml`, and `model/`: a network trained by it, with the ladder of a search on noisy dev data."""
    write_corpus(Path("data/train.cuts.jsonl.gz"), sentences(60, seed=0))
    write_corpus(Path("data/dev.cuts.jsonl.gz"), sentences(12, seed=1))
    noisy = write_noisy(Path("data/noisy.cuts.jsonl.gz"), sentences(12, seed=3))
    (HERE / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    sys.argv = ["layerdial", "train", "recipe.yaml"]  # which the run writes down
    model = train(load_recipe(HERE / "recipe.yaml"))
    search_model(model, noisy)
    shutil.rmtree(HERE / "model", ignore_errors=True)
    shutil.copytree(model, HERE / "model")


def write_noisy(path: Path, texts: Sequence[str]) -> Path:
    """A manifest of tones in so much noise that the network makes mistakes, and fewer with more blocks."""
    cuts = (write_cut(path.parent / "noisy", f"noisy-{i}", noisy(text, i), text) for i, text in enumerate(texts))
    write_cuts(cuts, path)
    return path


def noisy(text: str, seed: int) -> np.ndarray:
    samples = speak(text, seed)
    return samples + 0.1 * np.random.default_rng(1000 + seed).standard_normal(len(samples)).astype(np.float32)


if __name__ == "__main__":
    main()
