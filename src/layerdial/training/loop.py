"""The training loop, top to bottom: parts, steps, evaluation, checkpoints, the final model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from layerdial.config import Recipe
from layerdial.data.batching import Batch, FeatureBatches, Position, training_batches
from layerdial.data.manifest import open_cuts
from layerdial.data.posteriors import PosteriorStore
from layerdial.errors import UserError
from layerdial.ladder import Ladder
from layerdial.models.checkpoint import fingerprint
from layerdial.models.network import Network
from layerdial.modules.losses import LossTerms
from layerdial.progress import Update, progress
from layerdial.subset import Blocks
from layerdial.text import Tokenizer
from layerdial.training import checkpoints
from layerdial.training.interruption import Interruption, interruptions
from layerdial.training.optim import learning_rate, make_optimizer
from layerdial.training.policies import Policy, make_policy
from layerdial.training.posteriors import stored_posteriors
from layerdial.training.reference import Reference
from layerdial.training.run_folder import RunFolder
from layerdial.training.scoring import dev_scores, write_final_model
from layerdial.training.setup import (
    check_abilities,
    expect_unused_parts,
    make_accelerator,
    make_student,
    starting_ladder,
)
from layerdial.training.step import (
    Heard,
    Teachers,
    ask_reference,
    loss_terms,
    prepare_inputs,
    skip_if_not_finite,
)
from layerdial.training.window import Window


@dataclass
class _Run:
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
    policy: Policy
    ladder: Ladder | None
    dev: FeatureBatches
    progress: checkpoints.Progress
    window: Window


def train(recipe: Recipe, resume: bool = False) -> Path:
    """Run a recipe to its end and return the model folder.

    Raises `UserError` for input that does not fit together and when the loss stops being finite.
    """
    run = _prepare(recipe, resume)
    steps = recipe.train.steps
    if _is_over(recipe, run.folder, run.progress):
        return run.folder.model  # and its ladder stays
    shown = progress(f"train {recipe.out.name}", steps, run.progress.step)
    # processes of a distributed run would stop at different steps; theirs is the launcher's way to stop
    stoppable = interruptions() if run.accelerator.num_processes == 1 else nullcontext(Interruption())
    with shown if run.accelerator.is_main_process else nullcontext(_show_nothing) as update, stoppable as interruption:
        if _is_evaluated_here(run) and run.progress.step not in run.progress.scores:
            _evaluate_and_save(run, update, interruption)  # an interrupted evaluation
        if run.progress.step < steps:
            _make_updates(run, update, interruption)
    return _finish(run)


def _make_updates(run: _Run, update: Update, interruption: Interruption) -> None:
    """All updates that are left, each evaluated and saved where it is due."""
    recipe = run.recipe
    batches = training_batches(
        recipe.data,
        run.tokenizer,
        run.network.features,
        recipe.train.seed,
        run.progress.position,
        run.accelerator.process_index,
        run.accelerator.num_processes,
        run.posteriors,
    )
    run.student.train()
    run.window = Window()
    while run.progress.step < recipe.train.steps:
        _update_weights(run, batches)
        _log_when_due(run, update)
        if _is_evaluated_here(run):
            _evaluate_and_save(run, update, interruption)
        elif interruption.came:
            _save_where_it_stopped(run)
        if interruption.came:
            raise KeyboardInterrupt


def _is_over(recipe: Recipe, folder: RunFolder, state: checkpoints.Progress) -> bool:
    """Whether nothing is left to do, nor to be measured."""
    return state.step == recipe.train.steps and folder.is_finished(recipe)


def _is_evaluated_here(run: _Run) -> bool:
    """Whether dev is due after the updates made so far."""
    step, settings = run.progress.step, run.recipe.train
    return step > 0 and (step % settings.eval_every == 0 or step == settings.steps)


def _prepare(recipe: Recipe, resume: bool) -> _Run:
    accelerator = make_accelerator(recipe)
    for cuts in (recipe.data.train, recipe.data.dev):
        open_cuts(cuts)  # a mistake is said before anything is written, not at the first evaluation
    reference = Reference.load(recipe.reference, accelerator.device) if recipe.reference else None
    reference_weights = fingerprint(reference.folder) if reference else None
    network, tokenizer = make_student(recipe, reference)
    check_abilities(recipe, network)
    ladder = starting_ladder(recipe, network.n_blocks)
    if not recipe.objective.asks_reference:
        reference = None  # it gave its vocabulary and weights; nothing more is asked of it
    folder = RunFolder(recipe, resume, accelerator.process_index, reference_weights)
    network.to(accelerator.device)
    optimizer = make_optimizer(network, recipe.optim)
    latest = folder.latest if resume else None
    state = checkpoints.load(latest, network, optimizer) if latest else checkpoints.Progress()
    posteriors = None
    if reference is not None and recipe.objective.teacher == "cached" and not _is_over(recipe, folder, state):
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
    policy = make_policy(recipe.policy, network.n_blocks, recipe.train.seed, ladder)
    dev = FeatureBatches(recipe.data.dev, network.features, workers=recipe.data.workers)
    return _Run(
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
        window=Window(),
    )


def _update_weights(run: _Run, batches: Iterator[Batch]) -> None:
    """One update: gradients of all micro-batches and all subsets of the step, clipped, then AdamW."""
    recipe, state, accelerator = run.recipe, run.progress, run.accelerator
    torch.manual_seed(_seed(recipe.train.seed, state.step, accelerator.process_index))
    subsets = run.policy(state.step)
    for i in range(recipe.train.accumulate):
        batch = _next_batch(run, batches)
        _accumulate(run, batch, subsets, last=i == recipe.train.accumulate - 1)
        state.position = Position(batch.epoch, batch.position + 1)
        state.audio_seconds += batch.audio_seconds * accelerator.num_processes
        run.window.audio_seconds += batch.audio_seconds * accelerator.num_processes
    parameters = [parameter for parameter in run.student.parameters() if parameter.requires_grad]
    norm = accelerator.clip_grad_norm_(parameters, recipe.optim.clip)
    if norm is not None:
        run.window.add_norm(norm)
        if accelerator.scaler is None:  # fp16's scaler skips such updates itself
            skip_if_not_finite(_plain(run.optimizer), norm)
    for group in run.optimizer.param_groups:
        group["lr"] = group["lr_scale"] * learning_rate(recipe.optim, state.step, recipe.train.steps)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    state.step += 1


def _accumulate(run: _Run, batch: Batch, subsets: tuple[Blocks, ...], last: bool) -> None:
    """Add the gradients of one batch; GPUs exchange them in the last backward pass of the step only.

    A step's gradient is the plain mean over batches and GPUs of gradients per label: that of one big batch where all
    have as many labels (and, for the KL, as many frames), and close to it otherwise, since batches are as long.
    """
    recipe, distributed = run.recipe, run.student is not run.network
    heard = prepare_inputs(batch, run.network.features, run.accelerator.device, recipe.spec_augment, distributed)
    with run.accelerator.autocast():
        teachers = ask_reference(run.reference, batch, heard, recipe.objective)
    order, taught_BTV = _order_of_passes(run, heard, subsets, distributed)
    share = 1.0 / (len(subsets) * recipe.train.accumulate)
    for i, subset in enumerate(order):
        full = subset is subsets[-1]
        asked = teachers if full else replace(teachers, in_place_BTV=taught_BTV)
        terms = _backward(run, batch, heard, subset, asked, share, last and i == len(subsets) - 1)
        if full:  # where it teaches, it was first
            taught_BTV = terms.posteriors_BTV
        run.window.add(run.progress.step, batch.ids, subset.depth, terms)


def _order_of_passes(
    run: _Run, heard: Heard, subsets: tuple[Blocks, ...], distributed: bool
) -> tuple[tuple[Blocks, ...], Tensor | None]:
    """The subsets in the order of their passes; where the full one teaches the others in place, it is first.

    On many GPUs it stays last, because its pass is the one whose gradients are exchanged: what it teaches, the second
    value, is then computed beforehand.
    """
    if run.recipe.objective.in_place_weight == 0 or len(subsets) == 1:
        return subsets, None
    if not distributed:
        return subsets[::-1], None
    with run.accelerator.autocast(), torch.no_grad():
        return subsets, run.network(heard.inputs, heard.lengths_B, subsets[-1])[0]


def _backward(
    run: _Run, batch: Batch, heard: Heard, subset: Blocks, teachers: Teachers, share: float, synchronise: bool
) -> LossTerms:
    with nullcontext() if synchronise else run.accelerator.no_sync(run.student):
        with run.accelerator.autocast():
            terms = loss_terms(run.student, batch, heard, subset, teachers, run.recipe.objective)
        run.accelerator.backward(terms.total * share)
    return terms


def _next_batch(run: _Run, batches: Iterator[Batch]) -> Batch:
    """The next batch with something in it; what was left out is written to rejected.jsonl."""
    began = time.perf_counter()
    empty_in_a_row = 0
    while True:
        batch = next(batches)
        run.folder.note_rejected(batch.rejected)
        if batch.ids:
            run.window.waited += time.perf_counter() - began
            return batch
        empty_in_a_row += 1
        if empty_in_a_row == 100:
            reason = f"{batch.rejected[0].cut_id}: {batch.rejected[0].reason}" if batch.rejected else "none was given"
            raise UserError(
                f"{run.recipe.data.train}: 100 batches in a row hold nothing usable; the last reason: {reason}"
            )


def _log_when_due(run: _Run, update: Update) -> None:
    """Read the losses off the device: at every log line, and on a CPU, where it costs nothing, at every step."""
    step, settings = run.progress.step, run.recipe.train
    due = step % settings.log_every == 0 or _is_evaluated_here(run)
    if not due and run.accelerator.device.type != "cpu":
        return
    _stop_if_not_finite(run)
    if not due:
        return
    _count_seconds(run)
    total, ctc, distil = run.accelerator.reduce(run.window.mean_losses(), reduction="mean").tolist()
    row: dict[str, Any] = {
        "step": step,
        "loss": total,
        "ctc": ctc,
        "kl": distil,
        "learning_rate": run.optimizer.param_groups[0]["lr"],
        "epoch": run.progress.position.epoch,
        "audio_seconds": run.progress.audio_seconds,
        "train_seconds": run.progress.train_seconds,
        **run.window.figures(),
    }
    run.folder.log(row)
    update(step, f"loss {total:.3f}")
    run.window = Window()


def _stop_if_not_finite(run: _Run) -> None:
    """`UserError` that names the utterances, on every rank when it happened on one: none waits for the others."""
    passes, bad = len(run.window), run.window.not_finite()
    if run.accelerator.num_processes > 1:
        passes, bad = passes * run.accelerator.num_processes, gather_object(bad)
    if not bad and run.accelerator.scaler is None:
        bad = run.window.gradient_not_finite()  # the exchanged gradient: the same answer on every rank
    # fp16 overflows now and then by design: its scaler skips the update and lowers the scale
    if bad and (run.accelerator.scaler is None or len(bad) == passes):
        raise UserError(
            f"the loss is not finite at step {bad[0].step} (batch: {', '.join(bad[0].ids[:20])}); earlier "
            f"checkpoints are in {run.folder.checkpoints}. Look at these utterances, or lower optim.lr"
        )


def _evaluate_and_save(run: _Run, update: Update, interruption: Interruption) -> None:
    """A checkpoint, then dev error at full and low depth; the other ranks wait.

    In this order, because an evaluation can take long, and a kill in it must not cost the updates before. Nor need an
    interruption wait for its end: --resume makes up for it.
    """
    began = time.perf_counter()
    state = run.progress
    if run.accelerator.is_main_process:
        _save(run)
        with interruption.at_once():
            row, state.scores[state.step] = dev_scores(run.network, run.tokenizer, run.dev, run.recipe, run.ladder)
        run.folder.log({"step": state.step, "train_seconds": state.train_seconds, **row})
        update(state.step, "  ".join(f"{k.removeprefix('dev_')} {v:.1%}" for k, v in row.items() if "er_at" in k))
        checkpoints.save_progress(run.folder.checkpoints, state)
        checkpoints.prune(run.folder.checkpoints, state, run.recipe.train.average_best)
    run.accelerator.wait_for_everyone()
    run.student.train()
    run.window.began += time.perf_counter() - began


def _save(run: _Run) -> None:
    if run.accelerator.scaler is not None:
        run.progress.scaler = run.accelerator.scaler.state_dict()
    checkpoints.save(run.folder.checkpoints, run.network, _plain(run.optimizer), run.progress)
    checkpoints.prune(run.folder.checkpoints, run.progress, run.recipe.train.average_best)


def _save_where_it_stopped(run: _Run) -> None:
    """Ctrl-C or SIGTERM: a checkpoint of this very step, so that --resume goes on from here."""
    _count_seconds(run)
    if run.accelerator.is_main_process:
        _save(run)


def _count_seconds(run: _Run) -> None:
    """Add what has passed since the window began, evaluations left out, to the run's training time."""
    run.progress.train_seconds += run.window.seconds()


def _finish(run: _Run) -> Path:
    """The model folder, made by the first rank; the others wait."""
    if run.accelerator.is_main_process:
        write_final_model(run.folder, run.network, run.tokenizer, run.dev, run.recipe, run.progress, run.ladder)
    run.folder.close()
    run.accelerator.wait_for_everyone()
    return run.folder.model


def _show_nothing(done: int, note: str = "") -> None:
    """The progress of the ranks that are not the first."""


def _plain(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside accelerate's wrapper."""
    plain: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return plain


def _seed(seed: int, step: int, rank: int) -> int:
    """A generator seed for (seed, step, rank): dropout and SpecAugment repeat themselves when a run resumes."""
    return hash((seed, step, rank)) & 0x7FFF_FFFF_FFFF_FFFF
