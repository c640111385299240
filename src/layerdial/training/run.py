"""The parts of a training run, made of its recipe and, where it goes on, of its last checkpoint."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn

from layerdial.config.recipe import Recipe
from layerdial.data.batching import FeatureBatches, check_scorable
from layerdial.data.manifest import open_cuts
from layerdial.data.posteriors import PosteriorStore
from layerdial.ladder import Ladder
from layerdial.models.checkpoint import fingerprint, resolve_model
from layerdial.models.network import Network
from layerdial.text.tokenizer import Tokenizer
from layerdial.training import checkpoints
from layerdial.training.chunks import make_drawing
from layerdial.training.interruption import Interruption
from layerdial.training.log_window import LogWindow
from layerdial.training.optim import make_optimizer
from layerdial.training.policies import DrawBlocks, check_policy
from layerdial.training.precompute import stored_posteriors
from layerdial.training.reference import Reference
from layerdial.training.run_folder import RunFolder
from layerdial.training.setup import (
    check_abilities,
    expect_unused_parts,
    make_accelerator,
    make_student,
    starting_ladder,
)
from layerdial.utils.files import contents_anywhere


@dataclass
class Run:
    """The parts of a run. `network` is the plain model, `student` what accelerate made of it (DDP on many GPUs)."""

    recipe: Recipe
    accelerator: Accelerator
    folder: RunFolder
    tokenizer: Tokenizer
    reference: Reference | None
    posteriors: PosteriorStore | None
    network: Network
    student: nn.Module
    optimizer: torch.optim.Optimizer
    policy: DrawBlocks
    ladder: Ladder | None
    dev: FeatureBatches
    progress: checkpoints.TrainState
    window: LogWindow
    interruption: Interruption = field(default_factory=Interruption)

    @property
    def plain_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer inside accelerate's wrapper."""
        wrapped = isinstance(self.optimizer, AcceleratedOptimizer)
        return self.optimizer.optimizer if wrapped else self.optimizer  # type: ignore[attr-defined, no-any-return]


def prepare_run(recipe: Recipe, resume: bool) -> Run:
    """Everything up to the first step. Raises `UserError` for input that does not fit together."""
    accelerator = make_accelerator(recipe)
    open_cuts(recipe.data.train)  # a mistake is said before anything is written, not at the first evaluation
    check_scorable(recipe.data.dev)
    reference = Reference.load(recipe.reference, accelerator.device) if recipe.reference else None
    network, tokenizer = make_student(recipe, reference)
    check_abilities(recipe, network)
    ladder = starting_ladder(recipe, network.n_blocks)
    input_hashes = hashes_of(recipe, reference, tokenizer)
    check_policy(recipe, network.n_blocks, ladder)
    asked = recipe.objective.asks_reference()
    if asked is None:
        reference = None  # it gave its vocabulary and weights; nothing more is asked of it
    folder = RunFolder(recipe, resume, accelerator.process_index, input_hashes, accelerator.num_processes)
    network.to(accelerator.device)
    optimizer = make_optimizer(network, recipe.optim)
    latest = folder.latest if resume else None
    state = checkpoints.load(latest, network, optimizer) if latest else checkpoints.TrainState()
    posteriors = None
    cached = asked is not None and asked.inputs == "cached"
    if reference is not None and cached and not is_over(recipe, folder, state):
        began = time.perf_counter()
        posteriors = stored_posteriors(recipe, reference, accelerator)
        reference = None  # and its memory is free
        if latest is None:  # what the run waited for posteriors that were not stored yet is part of its time
            state.train_seconds = time.perf_counter() - began
    accelerator.wait_for_everyone()  # until every rank has looked whether there is a run already
    folder.begin(recipe, state.step, state.step in state.scores)
    expect_unused_parts(accelerator, recipe, network)
    student, optimizer = accelerator.prepare(network, optimizer)
    # accelerate would have every call of the network in half precision, dev scores too; training asks for it by itself
    accelerator.unwrap_model(student, keep_fp32_wrapper=False)
    if state.scaler and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state.scaler)
    policy = make_drawing(recipe, network, ladder)
    dev = FeatureBatches(
        recipe.data.dev, network.features, workers=recipe.data.workers, read_timeout=recipe.data.read_timeout
    )
    return Run(
        recipe=recipe,
        accelerator=accelerator,
        folder=folder,
        tokenizer=tokenizer,
        reference=reference,
        posteriors=posteriors,
        network=network,
        student=student,
        optimizer=optimizer,
        policy=policy,
        ladder=ladder,
        dev=dev,
        progress=state,
        window=LogWindow(),
    )


def hashes_of(recipe: Recipe, reference: Reference | None, tokenizer: Tokenizer) -> dict[str, str]:
    """Return hashes of what the recipe's paths lead to, by their keys."""
    found = {f"data.{name}": contents_anywhere(getattr(recipe.data, name)) for name in ("train", "dev")}
    found["tokenizer.path"] = hashlib.sha256("\n".join(tokenizer.tokens).encode()).hexdigest()[:16]
    if reference is not None:
        found["reference"] = fingerprint(reference.folder)
    if recipe.init not in ("scratch", "reference"):
        found["init"] = fingerprint(resolve_model(Path(recipe.init)))
    return found


def is_over(recipe: Recipe, folder: RunFolder, state: checkpoints.TrainState) -> bool:
    """Whether nothing is left to do, nor to be measured."""
    return state.step == recipe.train.steps and folder.is_finished(recipe)
