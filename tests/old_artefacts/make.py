"""Make the files in this folder: what layerdial wrote at commit 3b18fec, kept so that every later version reads them.

Written for commit 3b18fec, and runs with the package of that commit alone:

    git clone . ../then && cp -r tests/old_artefacts ../then/tests
    cd ../then && git checkout 3b18fec && PYTHONPATH=$PWD/src python tests/old_artefacts/make.py

Times are those of the machine that ran it; everything else comes out the same again.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

os.environ["OMP_NUM_THREADS"] = "1"
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent))

from layerdial import load_model  # noqa: E402
from layerdial.actions import search_model, sweep_model  # noqa: E402
from layerdial.config import load_recipe  # noqa: E402
from layerdial.data.manifest import write_cuts  # noqa: E402
from layerdial.export.run import export_model  # noqa: E402
from layerdial.ladder import Ladder  # noqa: E402
from layerdial.runtime import Recognizer  # noqa: E402
from layerdial.runtime.profile import profile_device  # noqa: E402
from layerdial.sweep import Timing  # noqa: E402
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
train: {steps: 100, log_every: 10, eval_every: 50, eval_depths: [1, 3], threads: 1}
"""
BEST = ("out=runs/best", "policy.name=none", "objective={exits: all, exit_power: 2.0}")
SENTENCE, SEED = "middle low high high low middle low", 5
METHODS = {"ld": 2, "dld": 2, "best": 2, "best_long": 2}  # how many seeds of each


def main() -> None:
    """Work in an empty folder, so that no path of a machine is stored; what matters is copied here."""
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        write_corpus(Path("data/train.cuts.jsonl.gz"), sentences(60, seed=0))
        write_corpus(Path("data/dev.cuts.jsonl.gz"), sentences(12, seed=1))
        noisy = write_noisy(Path("data/noisy.cuts.jsonl.gz"), sentences(12, seed=3))
        model, best = train_both()
        search_model(model, noisy)
        keep(model, HERE / "model")
        keep(best / "ladder.json", HERE / "ladder.json")
        sweep_both(model, best, noisy)
    export()
    write_texts()
    copy_rows()


def train_both() -> tuple[Path, Path]:
    """`recipe.yaml`, and `run/`, what a run by it leaves beside its model; with the model of another run."""
    (HERE / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    sys.argv = ["layerdial", "train", "recipe.yaml"]  # which the run writes down
    model = train(load_recipe(HERE / "recipe.yaml"))
    for name in ("meta.json", "dev.json", "metrics.jsonl"):
        keep(model.parent / name, HERE / "run" / name)
    return model, train(load_recipe(HERE / "recipe.yaml", BEST))


def sweep_both(model: Path, best: Path, cuts: Path) -> None:
    """`sweep/`: the rows of two methods and their utterances, without the picture."""
    timing = Timing(seconds=1.0, warmup=1, repeats=3, budget_s=1.0)
    for method, folder in (("ld", model), ("best", best)):
        sweep_model(folder, cuts, None, "ladder", Path("sweep"), method, workers=0, threads=1, timing=timing)
    keep(Path("sweep/sweep.jsonl"), HERE / "sweep/sweep.jsonl")
    keep(Path("sweep/utterances"), HERE / "sweep/utterances")


def export() -> None:
    """`exported/`: `model/` as a device gets it, with a profile of the machine that runs this."""
    export_model(HERE / "model", HERE / "exported", licence="CC0-1.0", name="tones")
    profile = profile_device(HERE / "exported", (1, 2), 4.0)
    profile.save(HERE / "exported", Ladder.beside(HERE / "exported", 3), 3)


def write_texts() -> None:
    """`texts.json`: what the two models make of one noisy sentence at each depth."""
    samples = noisy(SENTENCE, SEED)
    recognizers = {"model": load_model(HERE / "model"), "exported": Recognizer(HERE / "exported", 1)}
    texts = {
        name: {str(depth): recognizer.transcribe(samples, depth=depth).text for depth in (1, 2, 3)}
        for name, recognizer in recognizers.items()
    }
    written = {"sentence": SENTENCE, "seed": SEED, "texts": texts}
    (HERE / "texts.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def copy_rows() -> None:
    """`results.jsonl`: true rows of the suite synth, of methods that had other names then."""
    lines = (ROOT / "benchmarks/results/synth.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if (row := json.loads(line))["seed"] < METHODS.get(row["method"], 0)]
    (HERE / "results.jsonl").write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def write_noisy(path: Path, texts: Sequence[str]) -> Path:
    """A manifest of tones in so much noise that the network makes mistakes, and fewer with more blocks."""
    cuts = (write_cut(path.parent / "noisy", f"noisy-{i}", noisy(text, i), text) for i, text in enumerate(texts))
    write_cuts(cuts, path)
    return path


def noisy(text: str, seed: int) -> np.ndarray:
    """The same samples as `noisy` of tests/tiny_golden.py, which commit 3b18fec does not have."""
    samples = speak(text, seed)
    return samples + 0.1 * np.random.default_rng(1000 + seed).standard_normal(len(samples)).astype(np.float32)


def keep(source: Path, target: Path) -> None:
    """Copy a file or a folder, in place of what is there."""
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    main()
