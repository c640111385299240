"""`layerdial bench` from end to end: killed, resumed, changed, made anew; and chains of rounds."""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import yaml

from layerdial.config.recipe import Recipe
from layerdial.errors import UserError
from layerdial.suites import training_record as trained
from layerdial.suites.command import provenance, run_command
from layerdial.suites.plan import choose, jobs_left, plan, refuse_changed
from layerdial.suites.rows import current_rows, forget_rows
from layerdial.suites.run import alone, remove_fresh
from layerdial.suites.suite import Suite, load_suite
from layerdial.suites.training_record import Point, Trained, train_entry
from layerdial.utils.files import read_json, write_json
from layerdial.utils.rows import read_rows
from layerdial.utils.version import code_version
from layerdial.utils.workers import Failure, Job
from tiny import command, equal, sentences, weights, write_corpus
from tiny_processes import is_running, wait_for
from tiny_suite import METHODS, suite_data, tiny_suite, write_suite

KEYS = """corpus suite method name seed test depth subset wer errors words wer_low wer_high cer char_errors chars
macs_per_second updates train_seconds total_train_seconds audio_seconds_seen dev_mean commit utterances_file"""
TWO = {name: METHODS[name] for name in ("reference", "dld")}


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite that was killed in its second run and then run to its end; `before` is what was there at the kill."""
    folder = tmp_path_factory.mktemp("bench")
    file = write_suite(folder, suite_data(folder, corpus.train, corpus.dev, methods=TWO))
    run = folder / "out/dld/seed-0"
    kill_when(file, lambda: list(run.glob("checkpoints/step-*/optimizer.safetensors")))
    mark_first_row(run / "metrics.jsonl")
    shutil.copytree(folder / "out", folder / "before")
    ended = command("bench", file, "--jobs", "1", "--results", folder / "kept.jsonl")
    assert ended.code == 0, ended.err
    return folder


def kill_when(file: Path, condition: Callable[[], object]) -> None:
    """Run a suite, kill its main process when `condition` holds, and wait for its workers to end by themselves."""
    main = multiprocessing.get_context("fork").Process(target=run_command, args=(file,), kwargs={"parallel": 1})
    main.start()
    wait_for(condition)
    workers = Path(f"/proc/{main.pid}/task/{main.pid}/children").read_text().split()
    main.kill()
    main.join()
    wait_for(lambda: not any(is_running(int(pid)) for pid in workers))


def mark_first_row(metrics: Path) -> None:
    """A run that goes on keeps its earlier rows, one that begins anew does not."""
    first, *rest = read_rows(metrics)
    metrics.write_text("".join(json.dumps(row) + "\n" for row in ({**first, "mark": 1}, *rest)))


def suite_of(folder: Path) -> Suite:
    return load_suite(folder / "suite.yaml")


def left(suite: Suite, only: Sequence[str] = (), seeds: Sequence[int] = ()) -> set[str]:
    """The names of the jobs that are left to do."""
    runs = plan(suite)
    return {job.name for job in jobs_left(suite, runs, choose(suite, runs, only, seeds))}


def test_what_was_done_before_the_kill_is_kept_and_what_was_begun_goes_on(folder: Path) -> None:
    model = "reference/seed-0/model/model.safetensors"
    assert (folder / "before" / model).stat().st_mtime_ns == (folder / "out" / model).stat().st_mtime_ns
    assert not (folder / "before/dld/seed-0/trained.json").exists()
    rows = read_rows(folder / "out/dld/seed-0/metrics.jsonl")
    assert rows[0]["mark"] == 1
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 21))


def test_there_is_one_row_a_method_seed_and_depth_with_all_that_it_should_say(folder: Path) -> None:
    rows = read_rows(folder / "out/results.jsonl")
    assert sorted((row["name"], row["seed"], row["depth"]) for row in rows) == sorted(
        [("reference", seed, 3) for seed in (0, 1)] + [("dld", seed, depth) for seed in (0, 1) for depth in (1, 2, 3)]
    )
    for row in rows:
        assert set(KEYS.split()) <= row.keys()
        errors = [utterance["errors"] for utterance in read_rows(folder / "out" / row["utterances_file"])]
        assert sum(errors) == row["errors"] and len(errors) == 5
        assert row["updates"] == 20 and row["train_seconds"] > 0 and row["audio_seconds_seen"] > 0
    ladder = json.loads((folder / "out/dld/seed-0/model/ladder.json").read_text())
    subsets = {row["depth"]: row["subset"] for row in rows if (row["name"], row["seed"]) == ("dld", 0)}
    assert subsets == {rung["depth"]: rung["subset"] for rung in ladder["rungs"]}


def test_what_a_student_cost_includes_its_reference(folder: Path) -> None:
    rows = {(row["name"], row["seed"]): row for row in read_rows(folder / "out/results.jsonl")}
    for seed in (0, 1):
        reference, dld = rows["reference", seed], rows["dld", seed]
        assert reference["total_train_seconds"] == reference["train_seconds"]
        assert dld["total_train_seconds"] == pytest.approx(dld["train_seconds"] + reference["train_seconds"], abs=0.2)


def test_the_report_is_drawn_and_the_rows_are_copied_without_files_that_stay_behind(folder: Path) -> None:
    report = (folder / "out/report.md").read_text()
    assert "Change against reference" in report and "Training time" in report
    for picture in ("wer.png", "time.png"):
        assert (folder / "out" / picture).read_bytes().startswith(b"\x89PNG")
    kept = read_rows(folder / "kept.jsonl")
    assert len(kept) == 8 and not any("utterances_file" in row for row in kept)


def test_a_second_run_does_nothing_and_the_report_can_be_drawn_alone(folder: Path) -> None:
    suite = suite_of(folder)
    assert left(suite) == set()
    (folder / "out/report.md").unlink()
    assert run_command(folder / "suite.yaml", report_only=True) == 0
    assert (folder / "out/report.md").is_file()


def test_the_report_says_where_the_runs_were_made_and_not_where_it_is_drawn(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "out", tmp_path / "out")
    for seed, device in ((0, "NVIDIA H200"), (1, "cpu")):
        meta = tmp_path / f"out/dld/seed-{seed}/meta.json"
        write_json(
            meta, read_json(meta) | {"machine": "aarch64", "device": device, "python": "3.12.1", "torch": "2.11"}
        )
    suite = suite_of(folder).model_copy(update={"out": tmp_path / "out"})
    found = provenance(suite, [row for row in current_rows(suite, plan(suite)) if row["name"] == "dld"])
    places = "aarch64 CPU, Python 3.12.1, torch 2.11 and aarch64 NVIDIA H200, Python 3.12.1, torch 2.11"
    assert f"; {places}; " in found and found.endswith(" hours of training.")


def test_an_entry_that_changed_is_refused_and_fresh_removes_it_and_what_needs_it(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "out", tmp_path / "out")
    data = yaml.safe_load((folder / "suite.yaml").read_text()) | {"out": str(tmp_path / "out")}
    data["methods"]["dld"]["set"]["optim.lr"] = 0.1
    file = write_suite(tmp_path, data)
    ended = command("bench", file)
    assert ended.code == 2 and ended.err.count("\n") == 1
    assert "dld/seed-0 was begun with recipe.optim.lr 0.003, now 0.1" in ended.err and "--fresh dld" in ended.err
    suite = load_suite(file)
    remove_fresh(suite, plan(suite), ["dld"])
    assert not (tmp_path / "out/dld").exists() and (tmp_path / "out/reference/seed-1/model").is_dir()
    assert left(suite) == {"dld seed 0", "dld seed 1"}
    remove_fresh(suite, plan(suite), ["reference"])
    assert not (tmp_path / "out/reference").exists() and read_rows(tmp_path / "out/results.jsonl") == []


def test_a_model_from_outside_that_was_made_anew_is_noticed(folder: Path, corpus, learnt: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(learnt, teacher)
    methods = {"ld": {"init": str(teacher), "set": {"tokenizer": None, "model": None}}}
    suite = load_suite(write_suite(tmp_path, suite_data(tmp_path, corpus.train, corpus.dev, methods=methods)))
    for run, origin in plan(suite).items():
        write_json(suite.folder(*run) / "asked.json", origin.asked)
    refuse_changed(suite, plan(suite))
    shutil.copy(folder / "out/reference/seed-0/model/model.safetensors", teacher)
    with pytest.raises(UserError, match=r"ld/seed-0 was begun with models from outside\.init '\w+', now '\w+'"):
        refuse_changed(suite, plan(suite))
    first = suite.folder("ld", 0) / "asked.json"  # earlier versions did not write it down
    write_json(first, {key: value for key, value in read_json(first).items() if key != "models from outside"})
    with pytest.raises(UserError, match="ld/seed-1 was begun"):
        refuse_changed(suite, plan(suite))
    shutil.rmtree(teacher)  # what was made with it stays as it is
    refuse_changed(suite, plan(suite))


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


@pytest.mark.skipif(shutil.which("git") is None, reason="this machine has no git")
def test_a_changed_package_is_dirty_and_changed_results_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = package, results = tmp_path / "src/layerdial/__init__.py", tmp_path / "experiments/results.jsonl"
    for file in files:
        file.parent.mkdir(parents=True)
        file.touch()
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr("layerdial.__file__", str(package))
    commit = code_version()
    assert re.fullmatch("[0-9a-f]{12}", commit)
    results.write_text("{}\n")
    assert code_version() == commit
    package.write_text("changed = 1\n")
    assert code_version() == f"{commit}-dirty"


def test_a_corpus_that_was_made_anew_is_noticed(folder: Path, corpus, tmp_path: Path) -> None:
    shutil.copytree(folder / "out", tmp_path / "out")
    data = yaml.safe_load((folder / "suite.yaml").read_text()) | {"out": str(tmp_path / "out")}
    write_corpus(tmp_path / "dev.cuts.jsonl.gz", sentences(4, seed=9))
    suite = load_suite(write_suite(tmp_path, data | {"test": {"test": str(tmp_path / "dev.cuts.jsonl.gz")}}))
    assert len(left(suite)) == 4
    data["recipe"]["data"]["train"] = str(tmp_path / "dev.cuts.jsonl.gz")
    assert "was begun with training data" in command("bench", write_suite(tmp_path, data)).err


def test_a_lost_model_is_made_again_only_where_something_needs_it(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "out", tmp_path / "out")
    data = yaml.safe_load((folder / "suite.yaml").read_text()) | {"out": str(tmp_path / "out")}
    suite = load_suite(write_suite(tmp_path, data))
    for name in ("reference", "dld"):
        shutil.rmtree(suite.folder(name, 0))
    assert left(suite) == set()
    forget_rows(suite, ["dld"])
    assert left(suite) == {"reference seed 0", "dld seed 0", "dld seed 1"}


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


def test_a_model_whose_ladder_is_missing_is_not_there_yet(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "out", tmp_path / "out")
    data = yaml.safe_load((folder / "suite.yaml").read_text()) | {"out": str(tmp_path / "out")}
    data["methods"] |= {"more": {"init": "dld"}}
    suite = load_suite(write_suite(tmp_path, data))
    assert left(suite, ["more"], [0]) == {"more seed 0"}
    (suite.model("dld", 0) / "ladder.json").unlink()
    assert left(suite, ["more"], [0]) == {"dld seed 0", "more seed 0"}


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


def test_only_one_bench_runs_in_a_place(folder: Path) -> None:
    suite = suite_of(folder)
    with alone(suite):
        ended = command("bench", folder / "suite.yaml")
    assert ended.code == 2 and "in use by another layerdial bench" in ended.err


# ------------------------------------------------------------------------------------------------------------ chains


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Suite, list[str]]]:
    """A run and chains over it whose trainings are not done, but come out on dev as told; and what was trained."""

    def make(*dev: float, min_gain: float = 0.01) -> tuple[Suite, list[str]]:
        methods = {"ld": {}, "long": {"continues": "ld", "rounds": 4, "min_gain": min_gain}}
        suite = tiny_suite(tmp_path, methods={**methods, "like": {"continues": "ld", "rounds_like": "long"}})
        outcomes, made = iter(dev), list[str]()

        def run(recipe: Recipe, metric: str) -> Trained:
            (recipe.out / "model").mkdir(parents=True)
            for file in ("name", "ladder.json", "search.jsonl"):
                (recipe.out / "model" / file).write_text(recipe.out.name)
            made.append(recipe.out.name)
            mean = next(outcomes)
            return Trained(20, 20, 2.0, 60.0, mean, 0, {str(recipe.out): 2.0}, (Point(20, 2.0, mean),))

        monkeypatch.setattr(trained, "_train", run)
        train_entry(suite, "ld", 0)
        return suite, made

    return make


def test_a_chain_ends_with_the_first_round_that_gains_too_little(chain) -> None:
    suite, made = chain(0.5, 0.4, 0.3999)
    result = train_entry(suite, "long", 0)
    assert made == ["seed-0", "round-1", "round-2"]
    assert (result.round, result.dev_mean, result.updates, result.updates_spent) == (2, 0.3999, 60, 60)
    assert [(point.updates, point.train_seconds) for point in result.curve] == [(20, 2.0), (40, 4.0), (60, 6.0)]


def test_the_best_round_of_a_chain_is_its_result_and_what_came_after_it_was_spent(chain) -> None:
    suite, _ = chain(0.5, 0.4, 0.45)
    result = train_entry(suite, "long", 0)
    assert (result.round, result.updates, result.updates_spent) == (1, 40, 60)
    assert result.train_seconds == result.total_train_seconds == 4.0
    assert (suite.model("long", 0) / "name").read_text() == "round-1"


def test_the_result_of_a_chain_keeps_the_ladder_it_was_trained_with_and_no_search(chain) -> None:
    suite, _ = chain(0.5, 0.4, 0.45)
    train_entry(suite, "long", 0)
    files = {path.name: path.read_text() for path in suite.model("long", 0).iterdir()}
    assert files == {"name": "round-1", "ladder.json": "round-1"}


def test_a_chain_that_gains_nothing_is_the_run_that_it_continues(chain) -> None:
    suite, _ = chain(0.5, 0.6)
    result = train_entry(suite, "long", 0)
    assert (result.round, result.updates, result.updates_spent, result.dev_mean) == (0, 20, 40, 0.5)
    assert (suite.model("long", 0) / "name").read_text() == "seed-0"


def test_a_chain_like_another_has_at_most_the_updates_of_that_ones_result(chain) -> None:
    suite, made = chain(0.5, 0.4, 0.45, 0.3)
    long, like = train_entry(suite, "long", 0), train_entry(suite, "like", 0)
    assert made == ["seed-0", "round-1", "round-2", "round-1"]
    assert like.updates == like.updates_spent == long.updates == 40


def test_a_chain_has_no_more_rounds_than_it_may(chain) -> None:
    suite, made = chain(0.5, 0.4, 0.3, 0.2, 0.1)
    assert train_entry(suite, "long", 0).round == 4 and len(made) == 5


def test_a_real_chain_starts_each_round_from_the_one_before(corpus, tmp_path: Path) -> None:
    methods = {"ld": {}, "long": {"continues": "ld", "rounds": 2, "min_gain": 0.0}}
    data = suite_data(tmp_path, corpus.train, corpus.dev, methods=methods)
    data["recipe"]["optim"]["lr"] = 1e-9  # weights stay where they start
    data["recipe"]["train"] |= {"steps": 2, "eval_every": 1}
    suite = load_suite(write_suite(tmp_path, data))
    train_entry(suite, "ld", 1)
    train_entry(suite, "long", 1)
    start, rounds = weights(suite.folder("ld", 1)), sorted(suite.folder("long", 1).glob("round-*"))
    assert rounds and not any(run.joinpath("checkpoints").exists() for run in rounds)
    for run in rounds:
        assert all(torch.allclose(start[name], value, atol=1e-6) for name, value in weights(run).items())
    assert equal(start, weights(suite.folder("long", 1)))  # dev was no better
