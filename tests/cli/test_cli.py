"""The commands as scripts meet them: exit codes, one line on stderr, and nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

import layerdial
from layerdial.audio import files as audio
from tiny import Ended, command, in_child, speak, write_corpus, write_recipe

pytest_plugins = ["tiny_export"]

TEXT = "low high middle high low low"
SWEEP_KEYS = {"subset", "depth", "wer", "errors", "words", "macs_per_second", "latency_ms", "rtf", "audio_seconds"}
ALL_COMMANDS = ("prepare", "train", "search", "sweep", "transcribe", "demo", "bench")


@pytest.fixture
def model(learnt: Path, tmp_path: Path) -> Path:
    """A model folder that a test may change."""
    shutil.copytree(learnt, tmp_path / "run" / "model")
    return tmp_path / "run" / "model"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "clip.wav", speak(TEXT, 77), 16000)
    return tmp_path / "clip.wav"


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_users_mistake(ended: Ended, *parts: str) -> None:
    """Exit code 2 and one line on stderr that names the thing and what would be right."""
    assert ended.err.count("\n") == 1, ended.err
    assert_fails_in_its_last_line(ended, *parts)


def assert_fails_in_its_last_line(ended: Ended, *parts: str) -> None:
    """The same after lines of progress."""
    assert ended.code == 2, ended.err
    last = ended.err.splitlines()[-1]
    assert last.startswith("layerdial: ") and "Traceback" not in ended.err, ended.err
    for part in parts:
        assert part in last


# --------------------------------------------------------------------------------------------------- what is right


def test_the_installed_command_helps_and_returns_the_users_mistake_as_2(tmp_path: Path) -> None:
    layerdial = Path(sys.executable).with_name("layerdial")
    shown = subprocess.run([layerdial, "--help"], capture_output=True, text=True, check=True)
    assert all(name in shown.stdout for name in ALL_COMMANDS)
    wrong = subprocess.run([layerdial, "train", tmp_path / "no.yaml"], capture_output=True, text=True, check=False)
    assert_users_mistake(Ended(wrong.returncode, wrong.stdout, wrong.stderr), "no.yaml does not exist")


@pytest.mark.parametrize("name", ALL_COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    ended = command(name, "--help")
    assert ended.code == 0 and "Usage" in ended.out


def test_transcribe_prints_text_and_json_by_the_contract(model: Path, clip: Path) -> None:
    plain = command("transcribe", model, clip)
    assert (plain.code, plain.out, plain.err) == (0, f"{TEXT}\n", "")
    both = command("transcribe", model, clip, clip, "--depth", 2)
    assert both.out == f"{clip}: {TEXT}\n" * 2
    printed = command("transcribe", model, clip, clip, "--depth", 2, "--json").out
    rows = [json.loads(line) for line in printed.splitlines()]
    assert len(rows) == 2
    for row in rows:
        assert {"file", "text", "depth", "subset", "seconds", "rtf"} <= set(row)
        assert (row["file"], row["text"], row["depth"], row["subset"]) == (str(clip), TEXT, 2, "101")
        assert row["seconds"] == pytest.approx(soundfile.info(clip).duration, abs=0.001) and row["rtf"] > 0


def test_other_rates_are_resampled_and_said_once(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_announced_rates", set())
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", speak(TEXT, 77, 48000), 48000)
    ended = command("transcribe", model, tmp_path / "a.wav", tmp_path / "b.wav")
    assert ended.code == 0 and ended.out.count(TEXT) == 2
    assert ended.err == "layerdial: resampling 48000 Hz to 16000 Hz\n"


@pytest.mark.medium
def test_train_search_sweep_follow_each_other(corpus, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", tmp_path / "run", corpus.train, corpus.dev)
    trained = command("train", recipe, "--set", "train.steps=3", "--set", "train.eval_every=3")
    assert trained.code == 0, trained.err
    model = tmp_path / "run" / "model"
    assert f"model: {model}\n" in trained.out and f"next:  layerdial search {model} {corpus.dev}" in trained.out

    searched = command("search", model, corpus.dev, "--workers", 0)
    assert searched.code == 0, searched.err
    ladder = json.loads((model / "ladder.json").read_text())
    assert [rung["depth"] for rung in ladder["rungs"]] == [1, 2, 3]
    assert {path.name for path in model.iterdir()} == {
        *("config.json", "ladder.json", "meta.json", "model.safetensors", "tokens.txt")
    }

    out = tmp_path / "sweep"
    swept = command("sweep", model, corpus.dev, "--depths", "1,3", "--out", out, "--workers", 0)
    assert swept.code == 0, swept.err
    rows = [json.loads(line) for line in (out / "sweep.jsonl").read_text().splitlines()]
    assert [row["depth"] for row in rows] == [1, 3]
    assert all(set(row) >= SWEEP_KEYS for row in rows)
    assert [row["subset"] for row in rows] == [ladder["rungs"][0]["subset"], "111"]
    assert all(row["wer"] == row["errors"] / row["words"] for row in rows)
    assert rows[0]["macs_per_second"] < rows[1]["macs_per_second"]
    assert (out / "sweep.png").stat().st_size > 10_000
    again = command("sweep", model, corpus.dev, "--depths", "1,3", "--out", out, "--workers", 0)
    assert again.code == 0 and (out / "sweep.jsonl").read_text().count("\n") == 2


@pytest.mark.medium
def test_a_killed_run_goes_on_by_resume(corpus, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", tmp_path / "run", corpus.train, corpus.dev)
    few = ("--set", "train.steps=2", "--set", "train.eval_every=1")
    assert command("train", recipe, *few).code == 0
    assert_users_mistake(command("train", recipe, *few), "holds a run already; add --resume")
    assert command("train", recipe, *few, "--resume").code == 0


# --------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["does not exist"]),
        (b"", ["is empty (0 bytes)"]),
        (b"this is a text, not audio\n" * 50, ["is not audio"]),
        (b"RIFF\x00\x00", ["bad.wav"]),
    ],
)
def test_what_is_no_audio_is_named_and_the_other_files_are_still_transcribed(
    model: Path, clip: Path, tmp_path: Path, content: bytes | None, parts: list[str]
) -> None:
    bad = tmp_path / "bad.wav"
    if content is not None:
        bad.write_bytes(content)
    ended = command("transcribe", model, bad, clip)
    assert_users_mistake(ended, "bad.wav", *parts)
    assert ended.out == f"{clip}: {TEXT}\n"


def test_audio_without_samples_or_with_nan_is_named(model: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16000)
    assert_users_mistake(command("transcribe", model, tmp_path / "none.wav"), "none.wav holds no samples")
    soundfile.write(tmp_path / "nan.wav", np.array([0, np.nan, 0]), 16000, subtype="FLOAT")
    assert_users_mistake(command("transcribe", model, tmp_path / "nan.wav"), "nan.wav: sample 1 is not a finite number")


def test_short_audio_and_silence_are_fine(model: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", np.full(800, 0.1), 16000)
    soundfile.write(tmp_path / "silence.wav", np.zeros(32000), 16000)
    ended = command("transcribe", model, tmp_path / "short.wav", tmp_path / "silence.wav", "--json")
    assert ended.code == 0 and ended.err == ""
    assert [json.loads(line)["seconds"] for line in ended.out.splitlines()] == [0.05, 2.0]


@pytest.mark.parametrize("depth", [0, 4])
def test_a_depth_that_does_not_exist(model: Path, clip: Path, corpus, tmp_path: Path, depth: int) -> None:
    message = f"depth {depth} does not exist in an encoder of 3 blocks; choose 1 to 3"
    assert_users_mistake(command("transcribe", model, clip, f"--depth={depth}"), message)
    out = tmp_path / "sweep"
    assert_users_mistake(command("sweep", model, corpus.dev, f"--depths=1,{depth}", "--out", out), message)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["transcribe", "{tmp}", "{clip}"], "is not a model folder: it has no config.json"),
        (["transcribe", "{tmp}/none", "{clip}"], "is not a model folder"),
        (["transcribe", "{model}", "{clip}", "--device", "gpu"], "device gpu cannot be used"),
        (["search", "{model}", "{tmp}/none"], "none does not exist; give a manifest"),
        (["search", "{model}", "{clip}"], "clip.wav"),
        (["search", "{model}", "{dev}", "--metric", "cer"], "'loss' or 'wer', found 'cer'"),
        (["sweep", "{model}", "{tmp}/none", "--out", "{tmp}/out"], "none does not exist; give a manifest"),
        (["sweep", "{model}", "{dev}", "--select", "best"], "choose one of ladder, prefix, even, random"),
        (["sweep", "{model}", "{dev}", "--select", "ladder"], "no ladder.json; run layerdial search first"),
        (["sweep", "{model}", "{dev}", "--depths", "two"], "--depths 'two' is not a list of numbers"),
        (["prepare", "folder", "{tmp}/none", "{tmp}/out"], "none does not exist; give the folder"),
        (["prepare", "folder", "{clip}", "{tmp}/out"], "is not a folder"),
        (["prepare", "folder", "{tmp}", "{tmp}/out"], "metadata.csv"),
        (["prepare", "folder", "{tmp}", "{tmp}/out", "--join", "a-b"], "--join 'a-b' is not a range such as 3-7"),
        (["prepare", "folder", "{tmp}", "{tmp}/out", "--hold-out", "x"], "--hold-out 'x' is not of the form"),
        (["prepare", "librispeech", "{tmp}", "{tmp}/out"], "layerdial: "),
        (["prepare", "tedlium", "{tmp}", "{tmp}/out"], "layerdial: "),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    model: Path, clip: Path, corpus, tmp_path: Path, arguments: list[str], part: str
) -> None:
    before = files(tmp_path)
    places = {"tmp": tmp_path, "model": model, "clip": clip, "dev": corpus.dev}
    assert_users_mistake(command(*(argument.format(**places) for argument in arguments)), part)
    assert files(tmp_path) == before and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("optim.learning_rate=1", "unknown config key optim.learning_rate"),
        ("recipe=3", "has version 3; this layerdial reads 'recipe: 2'"),
        ("data.train=nowhere", "nowhere does not exist"),
        ("data.dev=nowhere", "nowhere does not exist"),
        ("reference={other}", "another vocabulary (2 tokens) than the student (4)"),
        ("train.eval_depths=[0]", "depth 0 does not exist"),
        ("out={clip}/run", "cannot write"),
        ("out=/proc/run", "cannot write /proc/run"),
    ],
)
def test_a_wrong_recipe_is_one_line_and_nothing_is_written(
    model: Path, clip: Path, corpus, tmp_path: Path, change: str, part: str
) -> None:
    (model / "tokens.txt").write_text("<blk> 0\nlow 1\n")
    config = json.loads((model / "config.json").read_text())
    fitting = {**config, "vocab_size": 2}
    (model / "config.json").write_text(json.dumps(fitting))
    shrink_head(model)
    recipe = write_recipe(tmp_path / "recipe.yaml", tmp_path / "out", corpus.train, corpus.dev)
    before = files(tmp_path)
    assert_users_mistake(command("train", recipe, "--set", change.format(other=model, clip=clip)), part)
    assert files(tmp_path) == before and not (tmp_path / "out").exists()


def shrink_head(model: Path) -> None:
    """Give the model a vocabulary of two tokens."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    for name in ("head.weight", "head.bias"):
        tensors[name] = tensors[name][:2].contiguous()
    save_file(tensors, model / "model.safetensors")


def test_a_recipe_that_is_no_yaml_or_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("recipe: [")
    assert_users_mistake(command("train", tmp_path / "a.yaml"), "a.yaml is not valid YAML")
    assert_users_mistake(command("train", tmp_path), "is not a recipe; give a YAML file")


# ------------------------------------------------------------------------------------------- full or read-only disk


def with_room_for(n_bytes: int, *arguments: object) -> Ended:
    """`layerdial ARGUMENTS` where no file can grow beyond so many bytes, as on a disk that is almost full."""

    def limited() -> None:
        from layerdial.cli.app import main

        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
        sys.argv = ["layerdial", *map(str, arguments)]
        main()

    return in_child(limited)


@pytest.mark.medium
def test_a_full_disk_while_training_keeps_what_was_whole(corpus, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", tmp_path / "run", corpus.train, corpus.dev)
    ended = with_room_for(30_000, "train", recipe, "--set", "train.steps=2")
    assert_fails_in_its_last_line(ended, "cannot write", "step-00000002", "free the disk or choose another place")
    assert not (tmp_path / "run" / "model").exists()
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert command("train", recipe, "--set", "train.steps=2", "--resume").code == 0


@pytest.mark.parametrize("n_bytes", [0, 300])
def test_a_full_disk_while_searching_leaves_no_ladder(model: Path, corpus, n_bytes: int) -> None:
    ended = with_room_for(n_bytes, "search", model, corpus.dev, "--workers", 0)
    assert_users_mistake(ended, "cannot write", "free the disk or choose another place")
    assert not (model / "ladder.json").exists() and not (model / ".writable").exists()


def test_a_full_disk_while_preparing_leaves_no_manifest(corpus, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(corpus.train.parent / "audio", source)
    lines = [f"{path.name},low high,{path.stem}" for path in sorted(source.iterdir())]
    (source / "metadata.csv").write_text("file_name,transcription,speaker_id\n" + "\n".join(lines) + "\n")
    ended = with_room_for(100, "prepare", "folder", source, tmp_path / "out")
    assert_fails_in_its_last_line(ended, "cannot write", "free the disk or choose another place")
    assert not files(tmp_path / "out")
    assert command("prepare", "folder", source, tmp_path / "out").code == 0


@pytest.mark.parametrize("place", ["{file}/out", "/proc/out"])
def test_a_place_that_cannot_be_written_is_said(model: Path, clip: Path, corpus, tmp_path: Path, place: str) -> None:
    out = place.format(file=clip)
    ended = command("sweep", model, corpus.dev, "--depths", "1", "--out", out, "--workers", 0)
    assert_users_mistake(ended, "cannot write", "choose another place")
    source = tmp_path / "source"
    write_corpus(source / "x.cuts.jsonl.gz", ["low"])
    (source / "metadata.csv").write_text("file_name,transcription\naudio/x.cuts.jsonl-0.wav,low\n")
    ended = command("prepare", "folder", source, out)
    assert_fails_in_its_last_line(ended, "cannot write", "choose another place")


def test_our_own_fault_is_not_the_users(tmp_path: Path, corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    from layerdial.training import run

    def broken(*_: object) -> Callable[[int], None]:
        raise RuntimeError("a bug")

    monkeypatch.setattr(run, "make_drawing", broken)
    recipe = write_recipe(tmp_path / "recipe.yaml", tmp_path / "run", corpus.train, corpus.dev)
    ended = command("train", recipe)
    assert ended.code == 1 and "RuntimeError: a bug" in ended.err


def test_an_interrupt_is_one_line_that_says_how_to_go_on(
    tmp_path: Path, corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    from layerdial.training import run

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "make_drawing", interrupted)
    recipe = write_recipe(tmp_path / "recipe.yaml", tmp_path / "run", corpus.train, corpus.dev)
    ended = command("train", recipe)
    assert ended.code == 130
    assert (
        ended.err
        == "layerdial: interrupted; what was finished is kept, the same command goes on (train: with --resume)\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sweep", "MODEL", "CUTS"), ""),
        (("sweep", "MODEL", "CUTS", "--out", "OUT"), "; what was finished is kept, the same command goes on"),
        (("search", "MODEL", "CUTS"), "; what was finished is kept, the same command goes on"),
        (("export", "MODEL", "OUT"), ""),
        (("transcribe", "MODEL", "CLIP"), ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_interrupted_command_says_that_it_goes_on_only_where_it_does(
    model: Path, clip: Path, corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("layerdial.models.checkpoint.load_conformer", interrupted)
    names = {"MODEL": model, "CUTS": corpus.dev, "CLIP": clip, "OUT": tmp_path / "out"}
    ended = command(*(names.get(word, word) for word in words))
    assert ended.code == 130 and ended.err == f"layerdial: interrupted{said}\n"


@pytest.mark.medium
def test_the_version_is_said_by_every_way_to_start() -> None:
    for start in (["-m", "layerdial"], ["-c", "from layerdial.cli.device import main; main()"]):
        ran = subprocess.run([sys.executable, *start, "--version"], capture_output=True, text=True)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"layerdial {layerdial.__version__}\n", "")


@pytest.mark.medium
@pytest.mark.parametrize("main", ["layerdial.cli.app", "layerdial.cli.device"])
def test_a_reader_that_has_enough_is_no_failure(main: str, model: Path, exported: Path, clip: Path) -> None:
    """As `| head -1`: with one line, which is flushed at the end alone, and with more than a pipe holds."""
    for count in (1, 40):
        long = clip.with_name(f"{'long' * 50}.wav")
        shutil.copy(clip, long)
        words = ["transcribe", str(exported), *[str(long)] * count]
        code = f"import sys; sys.argv[1:] = {words}; from {main} import main; main()"
        reader, writer = os.pipe()
        os.close(reader)
        ran = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True)
        os.close(writer)
        assert (ran.returncode, ran.stderr) == (0, "")


def test_recipes_written_by_these_tests_are_yaml(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", tmp_path, tmp_path, tmp_path)
    assert yaml.safe_load(recipe.read_text())["recipe"] == 2
