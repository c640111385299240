"""Jobs side by side: order, failures, interruption. The jobs here import neither torch nor anything that does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layerdial.errors import UserError
from layerdial.utils.jobs import run_jobs
from layerdial.utils.progress import Part, side_by_side
from layerdial.utils.workers import Failure, Job
from tiny_processes import is_running, wait_for


def note(file: Path, text: str) -> None:
    with file.open("a") as out:
        out.write(f"{text}\n")


def say(text: str) -> None:
    print(text, flush=True)


def mistake() -> None:
    raise UserError("corpus x does not exist")


def crash() -> None:
    raise RuntimeError("no such luck")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def note_process(file: Path) -> None:
    file.write_text(str(os.getpid()))


def wait_until_interrupted(folder: Path) -> None:
    """Work that saves what it has when it is interrupted."""
    try:
        (folder / "pid").write_text(str(os.getpid()))
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(0.2)
        (folder / "saved").touch()
        raise


def job(folder: Path, name: str, function: Callable[..., None], *arguments: Any, needs: tuple[str, ...] = ()) -> Job:
    return Job(name, function, arguments, folder / f"{name}.log", needs=frozenset(needs))


def reasons(failures: list[Failure]) -> dict[str, tuple[str, bool]]:
    return {failure.job.name: (failure.message, failure.users_mistake) for failure in failures}


def test_a_job_runs_after_those_that_it_needs_and_every_end_is_told(tmp_path: Path) -> None:
    file, told = tmp_path / "order", list[str]()
    jobs = [
        job(tmp_path, "last", note, file, "last", needs=("first", "middle")),
        job(tmp_path, "middle", note, file, "middle", needs=("first",)),
        job(tmp_path, "first", note, file, "first"),
    ]
    assert not run_jobs(jobs, 2, "test", lambda job: told.append(job.name))
    assert file.read_text().split() == told == ["first", "middle", "last"]


def test_what_a_job_prints_is_in_its_log_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    jobs = [job(tmp_path, name, say, f"I am {name}") for name in ("a", "b")]
    assert not run_jobs(jobs, 1, "test")
    assert [(tmp_path / f"{name}.log").read_text() for name in ("a", "b")] == ["I am a\n", "I am b\n"]
    assert "I am" not in "".join(capfd.readouterr())


@pytest.mark.medium
def test_failures_are_told_apart_and_stop_only_what_needs_them(tmp_path: Path) -> None:
    file = tmp_path / "done"
    jobs = [
        job(tmp_path, "mistake", mistake),
        job(tmp_path, "crash", crash),
        job(tmp_path, "death", die),
        job(tmp_path, "after", note, file, "after", needs=("death",)),
        job(tmp_path, "long after", note, file, "long after", needs=("after",)),
        job(tmp_path, "other", note, file, "other"),
    ]
    failed = reasons(run_jobs(jobs, 1, "test"))
    assert failed["mistake"] == ("corpus x does not exist", True)
    assert failed["crash"] == (f"RuntimeError: no such luck; see {tmp_path / 'crash.log'}", False)
    assert "Traceback" in (tmp_path / "crash.log").read_text()
    assert failed["death"] == (f"its process ended with -9; see {tmp_path / 'death.log'}", False)
    assert failed["after"] == ("left out, it needs death", False)
    assert failed["long after"] == ("left out, it needs after", False)
    assert file.read_text() == "other\n"


@pytest.mark.medium
def test_a_process_that_failed_by_our_fault_does_nothing_more(tmp_path: Path) -> None:
    """Of a GPU, an illegal access would fail all that comes after it in that process."""
    files = [tmp_path / name for name in ("before", "between", "after")]
    noted = [job(tmp_path, file.name, note_process, file) for file in files]
    between = [job(tmp_path, "mistake", mistake), job(tmp_path, "crash", crash)]
    failures = run_jobs([noted[0], between[0], noted[1], between[1], noted[2]], 1, "test")
    assert [failure.job.name for failure in failures] == ["mistake", "crash"]
    pids = [int(file.read_text()) for file in files]
    assert pids[0] == pids[1] != pids[2]


def test_a_worker_that_is_killed_while_it_has_nothing_to_do_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    jobs = [job(tmp_path, "one", note_process, file), job(tmp_path, "two", note_process, file, needs=("one",))]

    def kill(_: Job) -> None:
        pid = int(file.read_text())
        os.kill(pid, signal.SIGKILL)
        # a zombie whose threads have not ended yet still counts as alive
        wait_for(lambda: pid not in {process.pid for process in multiprocessing.active_children()})

    first: list[int] = []
    assert not run_jobs(jobs, 1, "test", lambda done: (first.append(int(file.read_text())), kill(done))[0])
    assert len(set(first)) == 2


@pytest.mark.medium
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_an_interrupted_worker_saves_and_ends(tmp_path: Path, how: signal.Signals) -> None:
    """Also when the process that gave it work is killed and cannot tell it."""
    jobs = [job(tmp_path, "work", wait_until_interrupted, tmp_path)]
    main = multiprocessing.get_context("fork").Process(target=_interruptible, args=(jobs,))
    main.start()
    wait_for(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text())
    worker = int((tmp_path / "pid").read_text())
    os.kill(main.pid or 0, how)
    main.join(30)
    assert main.exitcode == (-9 if how == signal.SIGKILL else 130)
    wait_for(lambda: not is_running(worker))
    assert (tmp_path / "saved").exists()


def _interruptible(jobs: list[Job]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run_jobs(jobs, 1, "test")
    except KeyboardInterrupt:
        os._exit(130)


def test_the_time_left_goes_by_what_is_done_now_and_not_by_what_was_done_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 120.0])
    monkeypatch.setattr("layerdial.utils.progress.time.monotonic", lambda: next(clock))
    with side_by_side("bench") as show:
        show(800, 1600, [], "0/1 jobs")
        show(1000, 1600, [Part("ld seed 0", 1000, 1600, "loss 0.500")], "0/1 jobs")
    assert (
        capsys.readouterr().err == "bench 1000/1600, 2:00 so far, 6:00 left  0/1 jobs; ld seed 0 1000/1600 loss 0.500\n"
    )
