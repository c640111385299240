"""A suite's jobs on a Ray cluster of two workers, one of which is killed in the middle of a training."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerdial.suites.command import run_command
from layerdial.suites.on_ray import RayTasks
from layerdial.suites.suite import load_suite
from layerdial.utils.jobs import run_jobs
from layerdial.utils.rows import read_rows
from layerdial.utils.workers import Job
from tiny_processes import wait_for
from tiny_ray import processes, runs_long, two_workers, waits_for
from tiny_suite import METHODS, left, suite_data, write_suite

pytest.importorskip("ray", reason="ray is missing: pip install '.[ray]'")
pytestmark = pytest.mark.slow

TWO = {name: METHODS[name] for name in ("reference", "dld")}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with two_workers():
        yield


def test_a_killed_worker_loses_nothing_and_does_nothing_twice(corpus, tmp_path: Path) -> None:
    file = write_suite(tmp_path, suite_data(tmp_path, corpus.train, corpus.dev, methods=TWO))
    out, before, killed = tmp_path / "out", dict[Path, int](), list[Path]()

    def kill_one() -> None:
        wait_for(lambda: list(out.glob("dld/*/checkpoints/step-*/optimizer.safetensors")))
        run = next(out.glob("dld/*/checkpoints")).parent
        [pid] = processes(f"ray::dld seed {run.name.removeprefix('seed-')}")
        before.update({model: model.stat().st_mtime_ns for model in out.glob("reference/*/model/model.safetensors")})
        os.kill(pid, signal.SIGKILL)
        killed.append(run)

    killer = threading.Thread(target=kill_one)
    killer.start()
    assert run_command(file, ray=True) == 0
    killer.join()
    rows = read_rows(out / "results.jsonl")
    assert sorted((row["name"], row["seed"], row["depth"]) for row in rows) == sorted(
        [("reference", seed, 3) for seed in (0, 1)] + [("dld", seed, depth) for seed in (0, 1) for depth in (1, 2, 3)]
    )
    assert killed and before and all(model.stat().st_mtime_ns == when for model, when in before.items())
    for run in [*out.glob("reference/*"), *out.glob("dld/*")]:  # each update once, in the one that was killed too
        steps = [row["step"] for row in read_rows(run / "metrics.jsonl") if "loss" in row]
        assert steps == list(range(1, 21))
    assert not left(load_suite(file))
    assert run_command(file, ray=True) == 0 and read_rows(out / "results.jsonl") == rows


def test_a_mistake_of_the_user_is_said_as_without_ray(corpus, tmp_path: Path, capfd) -> None:
    methods = {"ld": {"init": str(tmp_path / "nowhere"), "seeds": [0]}}
    file = write_suite(tmp_path, suite_data(tmp_path, corpus.train, corpus.dev, methods=methods))
    assert run_command(file, ray=True) == 2
    said = capfd.readouterr().err
    assert "layerdial: ld seed 0: " in said and "nowhere" in said and "Traceback" not in said


def test_an_interruption_is_handed_on(tmp_path: Path) -> None:
    begun, saved = tmp_path / "begun", tmp_path / "saved"
    jobs = [
        Job("long", runs_long, (begun, saved), tmp_path / "long.log"),
        Job("short", waits_for, (begun,), tmp_path / "short.log"),
    ]

    def interrupt(job: Job) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, 2, "test", interrupt, workers=RayTasks)
    assert saved.exists() and not processes("ray::long")
