"""What of a suite is left to do, and what was asked for that it does not have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from layerdial.errors import UserError
from layerdial.suites.command import run_command
from layerdial.suites.plan import plan
from layerdial.suites.suite import load_suite
from layerdial.utils.workers import Failure, Job
from tiny import command
from tiny_suite import METHODS, left, suite_data, write_suite


def test_a_folder_called_scratch_is_no_model(
    corpus, learnt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("scratch", "reference"):
        (tmp_path / name).mkdir()
    methods = {"ld": {}, "sc_exits": {"reference": str(learnt), "init": "reference", "set": {"tokenizer": None}}}
    suite = load_suite(write_suite(tmp_path, suite_data(tmp_path, corpus.train, corpus.dev, methods=methods)))
    found = {run: origin.asked["models from outside"] for run, origin in plan(suite).items()}
    assert found["ld", 0] == {} and found["sc_exits", 0].keys() == {"reference"}


def test_some_entries_and_seeds_can_be_run_alone_with_what_they_need(tmp_path: Path, corpus) -> None:
    suite = load_suite(write_suite(tmp_path, suite_data(tmp_path, corpus.train, corpus.dev)))
    assert left(suite, ["ld"]) == {"ld seed 0", "ld seed 1"}
    assert left(suite, ["dld"], [1]) == {"reference seed 1", "dld seed 1"}
    assert left(suite, [], [0]) == {f"{name} seed 0" for name in METHODS}
    assert left(suite) == left(suite, list(METHODS), [0, 1])


def test_only_what_was_chosen_is_run(tmp_path: Path, corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    run = list[str]()

    def pretend(jobs: Sequence[Job], *_: object, **__: object) -> list[Failure]:
        run.extend(job.name for job in jobs)
        return []

    monkeypatch.setattr("layerdial.suites.run.run_jobs", pretend)
    file = write_suite(tmp_path, suite_data(tmp_path, corpus.train, corpus.dev))
    with pytest.raises(UserError, match="has no rows"):
        run_command(file, only=["ld"], seeds=[1])
    assert run == ["ld seed 1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "lld"), "--only lld: methods are dld, ld, reference, static_2"),
        (("--fresh", "lld"), "--fresh lld: methods are dld, ld, reference, static_2"),
        (("--only", "ld", "--seed", "1", "--seed", "7"), "--seed 7: seeds are 0, 1"),
    ],
)
def test_what_the_suite_does_not_have_is_said(tmp_path: Path, corpus, arguments: Sequence[str], message: str) -> None:
    ended = command("bench", write_suite(tmp_path, suite_data(tmp_path, corpus.train, corpus.dev)), *arguments)
    assert ended.code == 2 and ended.err == f"layerdial: {message}\n"
