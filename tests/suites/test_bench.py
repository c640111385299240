"""`layerdial bench` from end to end: killed, resumed, changed, made anew."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from layerdial.errors import UserError
from layerdial.suites.command import provenance, run_command
from layerdial.suites.plan import plan, refuse_changed
from layerdial.suites.rows import current_rows, forget_rows
from layerdial.suites.run import alone, remove_fresh
from layerdial.suites.suite import Suite, load_suite
from layerdial.utils.files import read_json, write_json
from layerdial.utils.rows import read_rows
from tiny import command, sentences, write_corpus
from tiny_processes import is_running, wait_for
from tiny_suite import METHODS, left, suite_data, write_suite

pytestmark = pytest.mark.medium  # a suite is run, killed and run to its end, which takes seconds


KEYS = """corpus suite method name seed test depth subset wer errors words wer_low wer_high cer char_errors chars
macs_per_second updates train_seconds total_train_seconds audio_seconds_seen dev_mean commit utterances_file"""
TWO = {name: METHODS[name] for name in ("reference", "dld")}


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite that was killed in its second run and then run to its end; `before` is what was there at the kill."""
    folder = tmp_path_factory.mktemp("bench")
    forms = ["basic", "whisper-english"]
    file = write_suite(folder, suite_data(folder, corpus.train, corpus.dev, methods=TWO, normalizers=forms))
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
        assert row["normalizers"] == "basic,whisper-english" and row["errors_whisper_english"] == row["errors"]
        assert row["updates"] == 20 and row["train_seconds"] > 0 and row["audio_seconds_seen"] > 0
    ladder = json.loads((folder / "out/dld/seed-0/model/ladder.json").read_text())
    subsets = {row["depth"]: row["subset"] for row in rows if (row["name"], row["seed"]) == ("dld", 0)}
    assert subsets == {rung["depth"]: rung["subset"] for rung in ladder["rungs"]}


def test_rows_that_were_counted_in_another_form_are_made_again(folder: Path) -> None:
    assert not left(suite_of(folder))
    assert len(left(load_suite(folder / "suite.yaml", ["normalizers=[basic]"]))) == 4


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


def test_a_model_whose_ladder_is_missing_is_not_there_yet(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "out", tmp_path / "out")
    data = yaml.safe_load((folder / "suite.yaml").read_text()) | {"out": str(tmp_path / "out")}
    data["methods"] |= {"more": {"init": "dld"}}
    suite = load_suite(write_suite(tmp_path, data))
    assert left(suite, ["more"], [0]) == {"more seed 0"}
    (suite.model("dld", 0) / "ladder.json").unlink()
    assert left(suite, ["more"], [0]) == {"dld seed 0", "more seed 0"}


def test_only_one_bench_runs_in_a_place(folder: Path) -> None:
    suite = suite_of(folder)
    with alone(suite):
        ended = command("bench", folder / "suite.yaml")
    assert ended.code == 2 and "in use by another layerdial bench" in ended.err
