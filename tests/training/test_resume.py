"""Going on after a kill as if nothing had happened, and the model that the checkpoints make."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.summary.writer import event_file_writer

from layerdial.config.recipe import OptimConfig, Recipe
from layerdial.data import manifest, watched
from layerdial.data.manifest import open_cuts, write_cuts
from layerdial.data.now_reading import NowReading, names_in
from layerdial.data.watched import StalledRead
from layerdial.errors import UserError
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.training import checkpoints, log_window, loop, scoring, update
from layerdial.training.interruption import Interruption, interruptions, killed_after
from layerdial.training.loop import train
from layerdial.training.optim import make_optimizer
from layerdial.utils import files
from layerdial.utils.rows import read_rows
from tiny import RANDOM, Ended, equal, in_child, losses, tiny_network, tiny_recipe, weights, write_corpus
from tiny_training import kill, kill_at_step

pytestmark = pytest.mark.medium  # each trains twice: once killed, and once to its end


def kill_while_saving(step: int) -> None:
    """From now on, this process kills itself after the first file of that step's checkpoint."""
    save = checkpoints.save_tensors

    def deadly(file: Path, tensors: Any) -> None:
        save(file, tensors)
        if f"step-{step:08d}" in str(file):
            kill()

    checkpoints.save_tensors = deadly  # type: ignore[assignment]


def kill_in_evaluation(step: int, after: bool = False) -> None:
    """From now on, this process kills itself when it has made that many steps and evaluates; or right after it."""
    score, save = loop.dev_scores, checkpoints.save_progress

    def made(run: Path) -> bool:
        return max(losses(run)) == step

    def deadly_scores(*parts: Any) -> Any:
        if made(parts[3].out):
            kill()
        return score(*parts)

    def deadly_save(folder: Path, progress: checkpoints.TrainState) -> None:
        if progress.step == step:
            kill()
        save(folder, progress)

    if after:
        checkpoints.save_progress = deadly_save
    else:
        loop.dev_scores = deadly_scores  # type: ignore[assignment]


@pytest.fixture(scope="module")
def uninterrupted(corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    train(tiny_recipe(run, corpus.train, corpus.dev, *RANDOM))
    return run


@pytest.mark.parametrize(
    ("workers", "arrange", "steps_kept"),
    [
        (0, lambda: kill_at_step(5), 3),
        (1, lambda: kill_at_step(7), 6),
        (0, lambda: kill_at_step(1), 0),
        (0, lambda: kill_while_saving(6), 3),
        (0, lambda: kill_while_saving(3), 0),
        (0, lambda: kill_in_evaluation(6), 6),
        (0, lambda: kill_in_evaluation(3), 3),
        (0, lambda: kill_in_evaluation(6, after=True), 6),
        (0, lambda: kill_in_evaluation(9), 9),
    ],
    ids=[
        *("in-a-step", "with-workers", "before-the-first-checkpoint", "while-saving", "while-saving-the-first"),
        *("in-an-evaluation", "in-the-first-evaluation", "after-an-evaluation", "in-the-last-evaluation"),
    ],
)
def test_resumed_equals_uninterrupted(
    corpus,
    uninterrupted: Path,
    tmp_path: Path,
    workers: int,
    arrange: Callable[[], None],
    steps_kept: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    recipe = tiny_recipe(run, corpus.train, corpus.dev, *RANDOM, f"data.workers={workers}")

    def killed_run() -> None:
        arrange()
        train(recipe)

    assert in_child(killed_run).code == -signal.SIGKILL
    assert not (run / "model").exists()
    latest = checkpoints.latest(run / "checkpoints")
    assert steps_kept == (checkpoints.load(latest, *fresh(latest)).step if latest else 0)
    logged_before = losses(run)
    assert max(logged_before) >= steps_kept  # rows after it must be dropped and made again
    # TensorBoard's files are in the order of their names, which tell seconds
    monkeypatch.setattr(event_file_writer, "time", SimpleNamespace(time=lambda: time.time() + 2.0))
    train(recipe, resume=True)
    rows = read_rows(run / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 10))
    assert [row["step"] for row in rows if "loss" not in row] == [3, 6, 9]
    assert losses(run) == losses(uninterrupted)
    assert drawn(run) == {step: figures[0] for step, figures in losses(run).items()}
    assert equal(weights(run), weights(uninterrupted))
    assert not list((run / "checkpoints").glob(".*"))


def drawn(run: Path) -> dict[int, float]:
    """The losses that TensorBoard shows, each step once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    points = board.Scalars("loss")
    assert len({point.step for point in points}) == len(points)
    return {point.step: pytest.approx(point.value, rel=1e-6) for point in points}


def fresh(checkpoint: Path) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A network of the size of `tiny_recipe` and its optimizer, to load a checkpoint into."""
    network = ConformerCTC(tiny_network(n_blocks=3, width=32, ffn_width=64).config, 4)
    return network, make_optimizer(network, OptimConfig())


def test_a_finished_run_resumes_to_the_same_model(uninterrupted: Path, corpus) -> None:
    before, rows = weights(uninterrupted), losses(uninterrupted)
    train(tiny_recipe(uninterrupted, corpus.train, corpus.dev, *RANDOM), resume=True)
    assert equal(weights(uninterrupted), before) and losses(uninterrupted) == rows


def test_a_run_does_not_go_on_with_another_teacher_of_the_same_name(corpus, learnt: Path, tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    shutil.copytree(learnt, reference)
    changes = (f"reference={reference}", "model=null", "tokenizer=null", "train.steps=2", "train.eval_every=2")
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes, "objective.distil.weight=1")
    train(recipe)
    train(recipe, resume=True)
    tensors = load_file(reference / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, reference / "model.safetensors")
    with pytest.raises(UserError, match=r"weights of .*reference are not those that .*run was begun with"):
        train(recipe, resume=True)


def test_a_run_is_not_overwritten_nor_resumed_with_another_recipe(uninterrupted: Path, corpus) -> None:
    with pytest.raises(UserError, match="holds a run already; add --resume"):
        train(tiny_recipe(uninterrupted, corpus.train, corpus.dev, *RANDOM))
    for change, message in (
        ("optim.lr=0.5", r"optim\.lr 0\.003, the recipe now says 0\.5"),
        ("policy.name=prefix", "policy.name 'uniform_count', the recipe now says 'prefix'"),
        ("init=elsewhere", "init 'scratch', .* 'elsewhere'|elsewhere is not a model folder"),
    ):
        with pytest.raises(UserError, match=message):
            train(tiny_recipe(uninterrupted, corpus.train, corpus.dev, *RANDOM, change), resume=True)


@pytest.mark.parametrize(("score", "n_averaged"), [(0.0, 2), (9.9, 1)])
def test_the_model_is_the_mean_of_the_best_checkpoints_unless_the_best_alone_does_better_on_dev(
    corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: float, n_averaged: int
) -> None:
    monkeypatch.setattr(scoring, "dev_scores", lambda *parts: ({"dev_wer_at_3": score}, score))  # of the average
    changes = ("train.steps=6", "train.eval_every=2", "train.average_best=2")
    run = train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes)).parent
    averaged = json.loads((run / "model" / "meta.json").read_text())["averaged_steps"]
    assert len(averaged) == n_averaged
    kept = [load_file(run / "checkpoints" / f"step-{s:08d}" / "model.safetensors") for s in averaged]
    for name, tensor in weights(run).items():
        torch.testing.assert_close(tensor, sum(checkpoint[name] for checkpoint in kept) / n_averaged)
    assert len(list((run / "checkpoints").iterdir())) <= 3


def test_more_checkpoints_can_be_asked_for_than_were_kept(corpus, tmp_path: Path) -> None:
    changes = ("train.steps=6", "train.eval_every=2")
    train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes))
    train(tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes, "train.average_best=3"), resume=True)


def test_resuming_a_finished_run_keeps_its_ladder(corpus, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, "train.steps=2", "train.eval_every=2")
    model = train(recipe)
    (model / "ladder.json").write_text("{}")
    before = weights(model.parent)
    others = ("train.steps=2", "train.eval_every=2", "train.log_every=2", "train.threads=1")
    logged_otherwise = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *others)
    for again in (recipe, logged_otherwise):
        assert train(again, resume=True) == model
        assert (model / "ladder.json").is_file() and equal(before, weights(model.parent))


def test_a_run_killed_before_its_model_was_written_ends_when_it_is_resumed(corpus, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, "train.steps=2", "train.eval_every=2")

    def killed_run() -> None:
        scoring.save_model = lambda *parts: kill()
        train(recipe)

    assert in_child(killed_run).code == -signal.SIGKILL
    assert not (tmp_path / "run/model").exists()
    train(recipe, resume=True)
    assert (tmp_path / "run/model/model.safetensors").is_file() and (tmp_path / "run/dev.json").is_file()


# ------------------------------------------------------------------------------------------------------- interruption


def interrupt_in_step(step: int, *signals: signal.Signals, to: Callable[[int], None] = signal.raise_signal) -> None:
    """From now on, Ctrl-C (or `signals`, one right after the other) comes in the middle of that step."""
    rate, presses = update.learning_rate, iter(signals or [signal.SIGINT])

    def interrupting(config: OptimConfig, now: int, steps: int) -> float:  # called for each group of parameters
        if now == step and (number := next(presses, None)) is not None:
            to(number)
        return rate(config, now, steps)

    update.learning_rate = interrupting  # type: ignore[assignment]


def interrupted(recipe: Recipe, arrange: Callable[[], None]) -> Ended:
    """Train in a child process whose Ctrl-C is that of a terminal."""

    def run() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        arrange()
        train(recipe)

    return in_child(run)


@pytest.mark.parametrize(
    ("step", "logging"),
    [(4, "train.log_every=1"), (4, "train.log_every=20"), (5, "train.log_every=1"), (0, "train.log_every=1")],
    ids=["between-evaluations", "between-log-lines", "in-the-step-of-an-evaluation", "in-the-first-step"],
)
def test_ctrl_c_finishes_its_step_and_resumed_from_there_equals_uninterrupted(
    corpus, uninterrupted: Path, tmp_path: Path, step: int, logging: str
) -> None:
    run = tmp_path / "run"
    recipe = tiny_recipe(run, corpus.train, corpus.dev, *RANDOM, logging)
    ended = interrupted(recipe, lambda: interrupt_in_step(step))
    assert ended.code == 1 and "KeyboardInterrupt" in ended.err and not (run / "model").exists()
    latest = checkpoints.latest(run / "checkpoints")
    assert latest is not None and latest.name == f"step-{step + 1:08d}"
    train(recipe, resume=True)
    assert equal(weights(run), weights(uninterrupted))
    if logging == "train.log_every=1":
        assert losses(run) == losses(uninterrupted)
    assert len(list((run / "checkpoints").iterdir())) <= 2  # that of the interruption is not kept for ever


def test_ctrl_c_in_the_last_step_ends_the_run_when_its_checkpoint_is_there(
    corpus, uninterrupted: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *RANDOM)
    assert "KeyboardInterrupt" in interrupted(recipe, lambda: interrupt_in_step(8)).err
    latest = checkpoints.latest(tmp_path / "run" / "checkpoints")
    assert latest is not None and latest.name == "step-00000009" and not (tmp_path / "run" / "model").exists()
    train(recipe, resume=True)
    assert equal(weights(tmp_path / "run"), weights(uninterrupted))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_evaluation_is_not_waited_for(corpus, uninterrupted: Path, tmp_path: Path, number: signal.Signals) -> None:
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *RANDOM)

    def evaluation_without_end() -> None:
        loop.dev_scores = lambda *parts: (signal.raise_signal(number), time.sleep(60))  # type: ignore[assignment]

    assert "KeyboardInterrupt" in interrupted(recipe, evaluation_without_end).err
    latest = checkpoints.latest(tmp_path / "run" / "checkpoints")
    assert latest is not None and latest.name == "step-00000003"
    train(recipe, resume=True)
    assert equal(weights(tmp_path / "run"), weights(uninterrupted))


@pytest.mark.parametrize("taken", [0, 1], ids=["before-a-step", "in-the-middle-of-one"])
def test_data_that_never_comes_is_not_waited_for(corpus, uninterrupted: Path, tmp_path: Path, taken: int) -> None:
    """One Ctrl-C ends the wait, and the run goes on with the step that it was in; steps have two batches."""
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *RANDOM)
    batches = loop.training_batches

    def stalled(*parts: Any) -> Iterator[Any]:
        def stall() -> Iterator[Any]:
            signal.raise_signal(signal.SIGINT)
            time.sleep(60)
            yield

        return chain(islice(batches(*parts), 2 * 4 + taken), stall())  # begun here, as the real ones are

    def arrange() -> None:
        loop.training_batches = stalled  # type: ignore[assignment]

    ended = interrupted(recipe, arrange)
    assert ended.code == 1 and "InterruptedWait" in ended.err
    latest = checkpoints.latest(tmp_path / "run" / "checkpoints")
    assert latest is not None and latest.name == "step-00000004"
    train(recipe, resume=True)
    assert equal(weights(tmp_path / "run"), weights(uninterrupted))
    assert losses(tmp_path / "run") == losses(uninterrupted)


def test_a_run_whose_disk_is_gone_is_saved_and_resumed_equals_uninterrupted(
    corpus, uninterrupted: Path, tmp_path: Path
) -> None:
    changes = [*RANDOM, "data.workers=1", "data.read_timeout=0.1"]
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *changes)
    os.mkfifo(tmp_path / "gone")

    def run() -> None:
        watched._LOOK = 1 / 16
        look = NowReading.snapshot
        # workers begin when there is time: what is no read is no stalled one
        NowReading.snapshot = lambda files: look(files) if names_in(look(files)) else os.urandom(8)  # type: ignore[method-assign]
        _let_reads_stall(tmp_path / "gone", after=30)
        try:
            train(recipe)
        except StalledRead as stalled:
            print(stalled, file=sys.stderr)
            os._exit(2)

    ended = in_child(run)
    assert ended.code == 2 and "no batch for 0.125 s, workers wait for " in ended.err and ".wav" in ended.err
    latest = checkpoints.latest(tmp_path / "run" / "checkpoints")
    assert latest is not None and latest.name != "step-00000009"
    train(recipe, resume=True)
    assert equal(weights(tmp_path / "run"), weights(uninterrupted))
    assert losses(tmp_path / "run") == losses(uninterrupted)


def _let_reads_stall(fifo: Path, after: int) -> None:
    """From now on the files of this process and its workers can be read so often; then a read does not come back."""
    read, left = manifest.read_segment, list(range(after))

    def stall(*arguments: Any) -> Any:
        if not left:
            fifo.read_bytes()
        left.pop()
        return read(*arguments)

    manifest.read_segment = stall


def test_a_save_to_a_disk_that_is_gone_too_ends_the_process(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gone")

    def run() -> None:
        with killed_after(1):
            (tmp_path / "gone").read_bytes()

    assert in_child(run).code == -signal.SIGALRM
    with killed_after(1):
        pass
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL and signal.alarm(0) == 0


def test_a_second_ctrl_c_stops_at_once(corpus, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *RANDOM)
    assert "KeyboardInterrupt" in interrupted(recipe, lambda: interrupt_in_step(4, signal.SIGINT, signal.SIGINT)).err
    latest = checkpoints.latest(tmp_path / "run" / "checkpoints")
    assert latest is not None and latest.name == "step-00000003"


@pytest.mark.parametrize(
    ("interrupt", "changes"),
    [
        (lambda: (signal.signal(signal.SIGINT, signal.SIG_IGN), interrupt_in_step(4, signal.SIGTERM)), []),
        (lambda: interrupt_in_step(4, signal.SIGTERM, signal.SIGINT), []),
        (lambda: interrupt_in_step(4, signal.SIGTERM, to=partial(os.killpg, 0)), ["data.workers=1"]),
        (lambda: interrupt_in_step(4, signal.SIGHUP), []),
    ],
    ids=["where-ctrl-c-is-ignored", "and-ctrl-c", "to-data-workers-too", "or-the-terminal-is-closed"],
)
def test_sigterm_is_an_interrupt_too(
    corpus, uninterrupted: Path, tmp_path: Path, interrupt: Callable[[], object], changes: list[str]
) -> None:
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *RANDOM, *changes)

    def arrange() -> None:
        os.setpgrp()
        interrupt()

    assert "KeyboardInterrupt" in interrupted(recipe, arrange).err
    latest = checkpoints.latest(tmp_path / "run" / "checkpoints")
    assert latest is not None and latest.name == "step-00000005"
    train(recipe, resume=True)
    assert equal(weights(tmp_path / "run"), weights(uninterrupted))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_as_before_once_training_is_over_and_ignored_where_they_were(number: signal.Signals) -> None:
    for handler in (signal.default_int_handler, signal.SIG_IGN):
        before = signal.signal(number, handler)
        try:
            with interruptions() as interruption:
                if handler is signal.SIG_IGN:
                    signal.raise_signal(number)
                assert not interruption.came
            assert signal.getsignal(number) is handler
        finally:
            signal.signal(number, before)


def test_a_run_whose_terminal_is_gone_saves_and_resumed_equals_uninterrupted(
    corpus, uninterrupted: Path, tmp_path: Path
) -> None:
    """Every line that is printed there would be an error; the signal comes first, as it does from a shell."""
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *RANDOM)
    ours, theirs = os.openpty()

    def run() -> None:
        for stream in (1, 2):
            os.dup2(theirs, stream)
        os.close(theirs)

        def hang_up(number: int) -> None:
            signal.raise_signal(number)
            os.close(ours)

        interrupt_in_step(4, signal.SIGHUP, to=hang_up)
        try:
            train(recipe)
        except KeyboardInterrupt:
            os._exit(7)

    assert in_child(run).code == 7
    os.close(ours)
    os.close(theirs)
    latest = checkpoints.latest(tmp_path / "run" / "checkpoints")
    assert latest is not None and latest.name == "step-00000005"
    train(recipe, resume=True)
    assert equal(weights(tmp_path / "run"), weights(uninterrupted))


# ------------------------------------------------------------------------------------------- what is there of a run


@pytest.mark.parametrize("atomic", [True, False])
def test_a_kill_between_renames_of_a_checkpoint_that_is_saved_again_loses_nothing(
    corpus, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atomic: bool
) -> None:
    """After an evaluation that was interrupted, its checkpoint is written a second time."""
    if not atomic:
        monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *RANDOM)

    def killed_in_evaluation() -> None:
        kill_in_evaluation(3)
        train(recipe)

    def killed_between_renames() -> None:
        for name in ("replace",) if not atomic else ():
            setattr(os, name, deadly(getattr(os, name)))
        files._exchange = deadly(files._exchange) if atomic else files._exchange
        train(recipe, resume=True)

    def deadly(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            made = step(*arguments)
            return kill() if "step-00000003" in Path(arguments[0]).name else made

        return run

    assert in_child(killed_in_evaluation).code == -signal.SIGKILL
    assert in_child(killed_between_renames).code == -signal.SIGKILL
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000003"
    assert checkpoint.exists() == atomic
    train(recipe, resume=True)
    assert equal(weights(tmp_path / "run"), weights(uninterrupted)) and losses(tmp_path / "run") == losses(
        uninterrupted
    )
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def test_a_run_of_which_something_is_there_never_begins_anew(corpus, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = tiny_recipe(run, corpus.train, corpus.dev, "train.steps=4", "train.eval_every=2")
    train(recipe)
    for gone, message in (
        (run / "checkpoints" / "step-00000004" / "optimizer.safetensors", "4 steps, but no checkpoint to go on from"),
        (run / "model", "4 steps, but no checkpoint to go on from"),
        (run / "checkpoints", "4 steps, but no checkpoint to go on from"),
        (run / "meta.json", r"metrics\.jsonl of a run, but no meta\.json"),
    ):
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        for resume in (True, False):
            if resume or gone.name == "meta.json":
                with pytest.raises(UserError, match=message):
                    train(recipe, resume=resume)
    assert [row["step"] for row in read_rows(run / "metrics.jsonl") if "loss" in row] == [1, 2, 3, 4]


def test_a_run_without_any_checkpoint_says_that_it_begins_again(
    corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, "train.steps=4", "train.eval_every=2")

    def killed_run() -> None:
        kill_at_step(1)
        train(recipe)

    assert in_child(killed_run).code == -signal.SIGKILL
    train(recipe, resume=True)
    assert "no checkpoint was written in its 1 steps; it begins at step 0 again" in caplog.text


def test_a_run_does_not_go_on_with_another_number_of_processes(corpus, tmp_path: Path) -> None:
    """Each process takes a batch of its own. Once all updates are made, it does not matter."""
    settings = ("train.steps=4", "train.eval_every=2")
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *settings)

    def killed_run() -> None:
        kill_at_step(3)
        train(recipe)

    assert in_child(killed_run).code == -signal.SIGKILL
    meta = tmp_path / "run" / "meta.json"
    stored = json.loads(meta.read_text())
    assert stored["processes"] == 1
    meta.write_text(json.dumps(stored | {"processes": 2}))
    with pytest.raises(UserError, match="begun with 2 processes, each with a batch of its own, and one process would"):
        train(recipe, resume=True)
    meta.write_text(json.dumps({key: value for key, value in stored.items() if key != "processes"}))
    train(recipe, resume=True)  # earlier versions did not say
    meta.write_text(json.dumps(stored | {"processes": 2}))
    train(recipe, resume=True)


def test_a_run_is_trained_by_one_process(corpus, tmp_path: Path) -> None:
    """The second is told who the first is, and changes nothing; also if it only wants to resume."""
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, "train.steps=2", "train.eval_every=2")

    def second_run() -> None:
        ended = in_child(lambda: train(recipe, resume=True))
        os.write(1, ended.err.encode())
        kill()

    def first_run() -> None:
        loop.dev_scores = lambda *parts: second_run()  # type: ignore[assignment]
        train(recipe)

    ended = in_child(first_run)
    assert "UserError: the run in " in ended.out and f"{tmp_path}/run is in use by process " in ended.out
    train(recipe, resume=True)
    assert len([row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if "loss" in row]) == 2


def test_a_run_that_was_moved_with_its_corpus_goes_on(
    uninterrupted: Path, corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths and absolute ones, another place of audio, manifests and run: the contents are the same."""
    place = tmp_path / "before"
    shutil.copytree(corpus.train.parent, place)
    _say_where_audio_is(place)
    monkeypatch.chdir(tmp_path)
    recipe = tiny_recipe(
        Path("before/run"), Path("before/train.cuts.jsonl.gz"), Path("before/dev.cuts.jsonl.gz"), *RANDOM
    )
    assert "KeyboardInterrupt" in interrupted(recipe, lambda: interrupt_in_step(4)).err
    place.rename(tmp_path / "after")
    place = tmp_path / "after"
    _say_where_audio_is(place)
    parts = (place / "run", place / "train.cuts.jsonl.gz", place / "dev.cuts.jsonl.gz")
    train(tiny_recipe(*parts, *RANDOM), resume=True)
    assert equal(weights(place / "run"), weights(uninterrupted))
    write_corpus(place / "train.cuts.jsonl.gz", ["low high"] * 3)
    with pytest.raises(UserError, match=r"the contents of .*train\.cuts\.jsonl\.gz are not those .*\(data\.train\)"):
        train(tiny_recipe(*parts, *RANDOM), resume=True)


def _say_where_audio_is(folder: Path) -> None:
    for place in folder.glob("*.cuts.jsonl.gz"):
        cuts = list(open_cuts(place))
        for cut in cuts:
            source = cut.recording.sources[0]
            source.source = str(folder / "audio" / Path(source.source).name)
        write_cuts(cuts, place)


def test_training_seconds_grow_over_resumes_and_leave_evaluation_out(
    corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of our own: an update takes ten seconds, an evaluation a thousand."""
    now, updates = [0.0], set[int]()
    rate, score = update.learning_rate, loop.dev_scores

    def step_of_ten(config: OptimConfig, step: int, steps: int) -> float:  # called for each group of parameters
        now[0] += 0 if step in updates else 10
        updates.add(step)
        return rate(config, step, steps)

    def slow_scores(*parts: Any) -> Any:
        now[0] += 1000
        return score(*parts)

    for module in (loop, update, log_window):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(loop, "LogWindow", lambda: log_window.LogWindow(began=now[0]))
    monkeypatch.setattr(update, "learning_rate", step_of_ten)
    monkeypatch.setattr(loop, "dev_scores", slow_scores)

    class AfterFive(Interruption):
        came = property(lambda self: len(updates) == 5, lambda self, came: None)  # type: ignore[assignment]

    monkeypatch.setattr(loop, "interruptions", lambda: nullcontext(AfterFive()))
    recipe = tiny_recipe(tmp_path / "run", corpus.train, corpus.dev, *RANDOM, "train.log_every=2")
    with pytest.raises(KeyboardInterrupt):
        train(recipe)
    now[0] += 5000  # a night
    model = train(recipe, resume=True)
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert {row["step"]: row["train_seconds"] for row in rows} == {n: 10.0 * n for n in (2, 3, 4, 6, 8, 9)}
    meta = json.loads((model / "meta.json").read_text())
    assert (meta["train_seconds"], meta["updates"]) == (90.0, 9)
