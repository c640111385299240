"""Training speed of a real run: audio-seconds per second at full and half depth, and where the time of a step goes.

    python benchmarks/training.py [CUTS] [--size xs] [--batch-seconds 30] [--workers 1] [--threads 1] [--steps 20]

Without CUTS it speaks twenty minutes of the demo corpus first.

    python benchmarks/training.py [CUTS] --distil [--batch-seconds 12] ...

compares a step of DLD with one of LD, on the same batch with the same blocks, drawn as in training: with a reference of
the same size that runs in the step ("augmented"), and with its posteriors computed before ("cached"). Times are CPU
seconds of the process, which other work on the machine disturbs less.

Without --distil, full and half depth take turns, so that a busy machine slows both; what is reported are medians and
their ratio. Three figures are aims of the project: half depth takes at most 0.55 of the full-depth step, data and
features under 10 % of a step, little time outside the encoder.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.utils.hooks import RemovableHandle

from layerdial.config.network import ConformerConfig
from layerdial.config.objective import DistilConfig, ObjectiveConfig
from layerdial.config.recipe import DataConfig, OptimConfig, Recipe, SpecAugmentConfig
from layerdial.data.batching import Batch, Position, speeds_of, training_batches
from layerdial.data.manifest import cut_text, open_cuts
from layerdial.models.checkpoint import save_model
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.subset import Blocks, BlockSubset
from layerdial.text.tokenizer import build_tokenizer
from layerdial.training.objective import ask_reference, loss_terms, prepare_inputs
from layerdial.training.optim import make_optimizer
from layerdial.training.policies import make_policy
from layerdial.training.precompute import stored_posteriors
from layerdial.training.reference import Reference
from layerdial.training.setup import make_accelerator

_WARM_UP = 12


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    cuts = options.cuts or _speak()
    if options.distil:
        _compare_teachers(cuts, options)
        return
    tokenizer = build_tokenizer("char", (cut_text(cut) for cut in open_cuts(cuts)))
    network = ConformerCTC(ConformerConfig.model_validate({"size": options.size}), len(tokenizer.tokens)).train()
    data = DataConfig(train=cuts, dev=cuts, batch_seconds=options.batch_seconds, workers=options.workers)
    batches = training_batches(data, tokenizer, network.features, seed=0, start=Position())
    optimizer = make_optimizer(network, OptimConfig())
    n_blocks = network.n_blocks
    depths = {"full": BlockSubset.full(n_blocks), "half": BlockSubset.even(n_blocks, n_blocks // 2)}
    times: dict[str, list[float]] = defaultdict(list)
    # Full depth alone, and more steps of warm-up than batches are prefetched: only so do workers race the real thing.
    for step in range(options.steps + _WARM_UP):
        began = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - began
        _step(network, optimizer, batch, depths["full"])
        if step >= _WARM_UP:
            times["waited share"].append(waited / (time.perf_counter() - began))
    for step in range(options.steps + 2):
        batch = next(batches)
        for name, subset in depths.items():
            seconds, in_blocks = _step(network, optimizer, batch, subset)
            if step >= 2:
                times[name].append(seconds)
                times[f"{name} outside"].append(1 - in_blocks / seconds)
                times[f"{name} speed"].append(batch.audio_seconds / seconds)
    _report(times, options)


def _compare_teachers(cuts: Path, options: argparse.Namespace) -> None:
    """What a teacher adds to a step, and what computing its posteriors takes once."""
    recipe = _distillation_recipe(cuts, options)
    tokenizer = build_tokenizer("char", (cut_text(cut) for cut in open_cuts(cuts)))
    with TemporaryDirectory() as folder:
        new = ConformerCTC(ConformerConfig.model_validate({"size": options.size}), len(tokenizer.tokens))
        save_model(Path(folder) / "reference", new, tokenizer, {})
        reference = Reference.load(Path(folder) / "reference")
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"posteriors": Path(folder)})})
        began = time.perf_counter()
        store = stored_posteriors(recipe, reference, make_accelerator(recipe))
        making = time.perf_counter() - began
        on_disk = sum(shard.stat().st_size for shard in store.shards)
        batches = training_batches(recipe.data, tokenizer, new.features, 0, Position(), posteriors=store)
        times = _teachers_in_turns(new.train(), reference, batches, recipe, options.steps)
    hours = sum(cut.duration / speed for cut in open_cuts(cuts) for speed in speeds_of(recipe.data)) / 3600
    ld = times["ld"]
    row: dict[str, float | str] = {"size": options.size, "ld_step_cpu_ms": round(1000 * statistics.median(ld), 1)}
    for name in ("cached", "augmented"):
        ratios = [own / other for own, other in zip(times[name], ld, strict=True)]
        row[f"{name}_over_ld_step"] = round(statistics.median(ratios), 3)
        low, _, high = statistics.quantiles(ratios, n=4)
        row[f"{name}_over_ld_step_quartiles"] = f"{low:.3f} to {high:.3f}"
    row |= {"making_seconds_per_hour": round(making / hours, 1), "vocabulary": len(tokenizer.tokens)}
    row["megabytes_per_hour"] = round(on_disk / 1e6 / hours, 2)
    for key, value in row.items():
        print(f"{key:32} {value}")
    print(json.dumps(row))


def _teachers_in_turns(
    network: ConformerCTC, reference: Reference, batches: Iterator[Batch], recipe: Recipe, steps: int
) -> dict[str, list[float]]:
    """CPU seconds of each step by teacher. The policy draws blocks as in training; each turn has another order."""
    optimizer = make_optimizer(network, recipe.optim)
    policy = make_policy(recipe.policy, network.n_blocks, seed=0)
    teachers = {"ld": None, "cached": None, "augmented": reference}
    times: dict[str, list[float]] = defaultdict(list)
    for step in range(steps + 3):
        batch = next(batches)
        [subset] = policy(step)
        for name in random.Random(step).sample(list(teachers), len(teachers)):
            seen = batch if name == "cached" else replace(batch, posteriors=None)
            began = time.process_time()
            _step(network, optimizer, seen, subset, teachers[name])
            if step >= 3:
                times[name].append(time.process_time() - began)
    return times


def _distillation_recipe(cuts: Path, options: argparse.Namespace) -> Recipe:
    data = {"train": cuts, "dev": cuts, "batch_seconds": options.batch_seconds, "workers": options.workers}
    parts = {"policy": {"name": "uniform_count"}, "objective": {"distil": {"teacher": "cached"}}}
    train = {"steps": 1, "threads": options.threads}
    return Recipe.model_validate({"recipe": 2, "out": "x", "reference": "x", "data": data, **parts, "train": train})


def _step(
    network: ConformerCTC,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    subset: Blocks,
    reference: Reference | None = None,
) -> tuple[float, float]:
    """One update: seconds in all, and seconds within the blocks, forward and backward."""
    in_blocks = _Stopwatch()
    handles = [handle for block in network.blocks for handle in in_blocks.watch(block)]
    began = time.perf_counter()
    inputs = prepare_inputs(batch, network, torch.device("cpu"), SpecAugmentConfig())
    objective = ObjectiveConfig(distil=DistilConfig())
    teachers = ask_reference(reference, batch, inputs, objective)
    terms = loss_terms(network, batch, inputs, subset, teachers, objective)
    torch.autograd.backward(terms.total)
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - began
    for handle in handles:
        handle.remove()
    return seconds, in_blocks.seconds


class _Stopwatch:
    """Time between a module's input and output in the forward pass, and between their gradients in the backward."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def watch(self, module: torch.nn.Module) -> list[RemovableHandle]:
        return [
            module.register_forward_pre_hook(lambda *_: self._start()),
            module.register_forward_hook(lambda *_: self._stop()),
            module.register_full_backward_pre_hook(lambda *_: self._start()),
            module.register_full_backward_hook(lambda *_: self._stop()),
        ]

    def _start(self) -> None:
        self._began = time.perf_counter()

    def _stop(self) -> None:
        self.seconds += time.perf_counter() - self._began


def _report(times: dict[str, list[float]], options: argparse.Namespace) -> None:
    median = {name: statistics.median(values) for name, values in times.items()}
    row = {
        "size": options.size,
        "threads": torch.get_num_threads(),
        "audio_seconds_per_second_full": round(median["full speed"], 1),
        "audio_seconds_per_second_half": round(median["half speed"], 1),
        "half_over_full_step": round(
            statistics.median(h / f for h, f in zip(times["half"], times["full"], strict=True)), 3
        ),
        "outside_blocks_share_full": round(median["full outside"], 3),
        "outside_blocks_share_half": round(median["half outside"], 3),
        "waiting_for_data_share_full": round(statistics.mean(times["waited share"]), 3),
    }
    for name, value in row.items():
        print(f"{name:32} {value}")
    print(json.dumps(row))


def _speak() -> Path:
    from layerdial.data.synthesis.demo_corpus import prepare_demo

    prepare_demo(Path("runs/demo/cuts"))
    return Path("runs/demo/cuts/train.cuts.jsonl.gz")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cuts", type=Path, nargs="?")
    parser.add_argument("--size", default="xs")
    parser.add_argument("--batch-seconds", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--distil", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
