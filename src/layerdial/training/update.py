"""One update of the weights: gradients of all batches and all subsets of the step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from layerdial.data.batching import Batch, Position
from layerdial.data.watched import StalledRead
from layerdial.errors import UserError
from layerdial.modules.losses import LossTerms
from layerdial.subset import Blocks
from layerdial.training.interruption import InterruptedWait
from layerdial.training.objective import (
    NetworkInputs,
    Teachers,
    ask_reference,
    loss_terms,
    prepare_inputs,
    skip_if_not_finite,
)
from layerdial.training.optim import learning_rate
from layerdial.training.run import Run


def update_weights(run: Run, batches: Iterator[Batch]) -> None:
    """One update: gradients of all micro-batches and all subsets of the step, clipped, then AdamW."""
    recipe, state, accelerator = run.recipe, run.progress, run.accelerator
    torch.manual_seed(_seed(recipe.train.seed, state.step, accelerator.process_index))
    subsets = run.policy(state.step)
    before = state.position, state.audio_seconds
    for i in range(recipe.train.accumulate):
        try:
            batch = _next_batch(run, batches)
        except (InterruptedWait, StalledRead):  # the whole step is made again
            state.position, state.audio_seconds = before
            raise
        _accumulate(run, batch, subsets, last=i == recipe.train.accumulate - 1)
        state.position = Position(batch.epoch, batch.position + 1)
        state.audio_seconds += batch.audio_seconds * accelerator.num_processes
        run.window.audio_seconds += batch.audio_seconds * accelerator.num_processes
    parameters = [parameter for parameter in run.student.parameters() if parameter.requires_grad]
    norm = accelerator.clip_grad_norm_(parameters, recipe.optim.clip)
    if norm is not None:
        run.window.add_norm(norm)
        if accelerator.scaler is None:  # fp16's scaler skips such updates itself
            skip_if_not_finite(run.plain_optimizer, norm)
    for group in run.optimizer.param_groups:
        group["lr"] = group["lr_scale"] * learning_rate(recipe.optim, state.step, recipe.train.steps)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    state.step += 1


def _accumulate(run: Run, batch: Batch, subsets: tuple[Blocks, ...], last: bool) -> None:
    """Add the gradients of one batch; GPUs exchange them in the last backward pass of the step only.

    A step's gradient is the plain mean over batches and GPUs of gradients per label: that of one big batch where all
    have as many labels (and, for the KL, as many frames), and close to it otherwise, since batches are as long.
    """
    recipe, distributed = run.recipe, run.student is not run.network
    inputs = prepare_inputs(batch, run.network, run.accelerator.device, recipe.spec_augment, distributed)
    with run.accelerator.autocast():
        teachers = ask_reference(run.reference, batch, inputs, recipe.objective)
    order, full_BTV = _order_of_passes(run, inputs, subsets, distributed)
    share = 1.0 / (len(subsets) * recipe.train.accumulate)
    for i, subset in enumerate(order):
        full = subset is subsets[-1]
        asked = teachers if full else replace(teachers, in_place_BTV=full_BTV)
        terms = _backward(run, batch, inputs, subset, asked, share, last and i == len(subsets) - 1)
        if full:  # where the others learn from it, it was first
            full_BTV = terms.posteriors_BTV
        run.window.add(run.progress.step, batch.ids, subset.depth, terms)


def _order_of_passes(
    run: Run, inputs: NetworkInputs, subsets: tuple[Blocks, ...], distributed: bool
) -> tuple[tuple[Blocks, ...], Tensor | None]:
    """Return the subsets in the order of their passes; where the others learn from the full one, it is first.

    On many GPUs it stays last, because its pass is the one whose gradients are exchanged: its posteriors, the second
    value, are then computed beforehand.
    """
    if not run.recipe.objective.asks_full_pass() or len(subsets) == 1:
        return subsets, None
    if not distributed:
        return subsets[::-1], None
    with run.accelerator.autocast(), torch.no_grad():
        full = run.network(inputs.masked, inputs.lengths_B, subsets[-1], (), *inputs.given)
        return subsets, full.log_probs_BTV


def _backward(
    run: Run, batch: Batch, inputs: NetworkInputs, subset: Blocks, teachers: Teachers, share: float, synchronise: bool
) -> LossTerms:
    with nullcontext() if synchronise else run.accelerator.no_sync(run.student):
        with run.accelerator.autocast():
            terms = loss_terms(run.student, batch, inputs, subset, teachers, run.recipe.objective)
        run.accelerator.backward(terms.total * share)
    return terms


def _next_batch(run: Run, batches: Iterator[Batch]) -> Batch:
    """The next batch with something in it; what was left out is written to rejected.jsonl."""
    began = time.perf_counter()
    empty_in_a_row = 0
    while True:
        batch = _waited_for(run, batches)
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


def _waited_for(run: Run, batches: Iterator[Batch]) -> Batch:
    """Return the next batch; an interruption need not wait for one that may never come, from a disk that is gone."""
    with run.interruption.while_waiting():
        return next(batches)


def _seed(seed: int, step: int, rank: int) -> int:
    """A generator seed for (seed, step, rank): dropout and SpecAugment repeat themselves when a run resumes."""
    return hash((seed, step, rank)) & 0x7FFF_FFFF_FFFF_FFFF
