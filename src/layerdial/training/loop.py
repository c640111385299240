"""The training loop, top to bottom: updates, log, evaluation, checkpoints, the final model."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from layerdial.config.recipe import Recipe
from layerdial.data.batching import training_batches
from layerdial.data.watched import StalledRead
from layerdial.errors import UserError
from layerdial.training import checkpoints
from layerdial.training.interruption import InterruptedWait, Interruption, interruptions, killed_after
from layerdial.training.log_window import LogWindow
from layerdial.training.lost_process import naming_lost_processes
from layerdial.training.run import Run, is_over, prepare_run
from layerdial.training.run_folder import holding_run
from layerdial.training.scoring import dev_scores, write_final_model
from layerdial.training.update import update_weights
from layerdial.utils.progress import Update, progress

_SECONDS_TO_SAVE = 300


def train(recipe: Recipe, resume: bool = False) -> Path:
    """Run a recipe to its end and return the model folder.

    Raises `UserError` for input that does not fit together, when the loss stops being finite, while another process
    trains in that folder, when another process of the same run is gone, and after `data.read_timeout` without a batch,
    when the run is saved.
    """
    with holding_run(recipe.out), naming_lost_processes(recipe.out):
        return _train(prepare_run(recipe, resume))


def _train(run: Run) -> Path:
    recipe, steps = run.recipe, run.recipe.train.steps
    if is_over(recipe, run.folder, run.progress):
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


def _make_updates(run: Run, update: Update, interruption: Interruption) -> None:
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
        run.network.labels,
    )
    run.student.train()
    run.window, run.interruption = LogWindow(), interruption
    while run.progress.step < recipe.train.steps:
        try:
            update_weights(run, batches)
        except InterruptedWait:
            _save_where_it_stopped(run)
            raise
        except StalledRead:
            with killed_after(_SECONDS_TO_SAVE):  # its disk may be gone as well
                _save_where_it_stopped(run)
            raise
        _log_when_due(run, update)
        if _is_evaluated_here(run):
            _evaluate_and_save(run, update, interruption)
        elif interruption.came:
            _save_where_it_stopped(run)
        if interruption.came:
            raise KeyboardInterrupt


def _is_evaluated_here(run: Run) -> bool:
    """Whether dev is due after the updates made so far."""
    step, settings = run.progress.step, run.recipe.train
    return step > 0 and (step % settings.eval_every == 0 or step == settings.steps)


def _log_when_due(run: Run, update: Update) -> None:
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
    run.window = LogWindow()


def _stop_if_not_finite(run: Run) -> None:
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


def _evaluate_and_save(run: Run, update: Update, interruption: Interruption) -> None:
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


def _save(run: Run) -> None:
    if run.accelerator.scaler is not None:
        run.progress.scaler = run.accelerator.scaler.state_dict()
    checkpoints.save(run.folder.checkpoints, run.network, run.plain_optimizer, run.progress)
    checkpoints.prune(run.folder.checkpoints, run.progress, run.recipe.train.average_best)


def _save_where_it_stopped(run: Run) -> None:
    """Ctrl-C, SIGTERM or SIGHUP: a checkpoint of this very step, so that --resume goes on from here."""
    _count_seconds(run)
    if run.accelerator.is_main_process:
        _save(run)


def _count_seconds(run: Run) -> None:
    """Add what has passed since the window began, evaluations left out, to the run's training time."""
    run.progress.train_seconds += run.window.seconds()


def _finish(run: Run) -> Path:
    """The model folder, made by the first rank; the others wait."""
    if run.accelerator.is_main_process:
        write_final_model(run.folder, run.network, run.tokenizer, run.dev, run.recipe, run.progress, run.ladder)
    run.folder.close()
    run.accelerator.wait_for_everyone()
    return run.folder.model


def _show_nothing(done: int, note: str = "") -> None:
    """The progress of the ranks that are not the first."""
