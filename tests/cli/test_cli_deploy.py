"""The commands around exported models as scripts meet them: what is printed, exit codes, one line on stderr."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import soundfile

from layerdial.cli import device
from layerdial.errors import UserError
from layerdial.export.quality import Int8
from layerdial.export.writer import Traced
from layerdial.ladder import Ladder
from layerdial.runtime import Recognizer, commands
from layerdial.runtime.manifest import Manifest
from layerdial.utils import notices
from tiny import Ended, command, speak, write_corpus

pytest_plugins = ["tiny_export"]

TEXT = "low high middle high low low"
WISHES = ("--deadline-ms", "--target-rtf", "--max-cpu", "--confidence")


@pytest.fixture
def edge_folder(exported: Path, tmp_path: Path) -> Path:
    """An exported folder that a test may change."""
    shutil.copytree(exported, tmp_path / "edge")
    return tmp_path / "edge"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "clip.wav", speak(TEXT, 77), 16000)
    return tmp_path / "clip.wav"


@pytest.fixture
def quick(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports begin with the graph that was traced before, which spares ten seconds each."""
    monkeypatch.setattr("layerdial.export.export.trace", lambda *arguments: traced)


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_users_mistake(ended: Ended, *parts: str) -> None:
    """Exit code 2 and one line on stderr that names the thing and what would be right."""
    assert ended.code == 2, ended.err
    assert ended.err.count("\n") == 1 and ended.err.startswith("layerdial: "), ended.err
    for part in parts:
        assert part in ended.err


# ---------------------------------------------------------------------------------------------------------- export


def test_export_says_what_it_wrote_how_close_it_is_and_what_comes_next(exported: Path) -> None:
    out = exported
    said = json.loads((out.parent / "said.json").read_text(encoding="utf-8"))
    assert said["err"] == "tracing 3 blocks, which takes a second or more each\n"
    written, compared, following = said["out"].splitlines()
    size = (out / "model.onnx").stat().st_size / 1e6
    assert written == f"exported: {out} (float32, {size:.1f} MB, 3 blocks)"
    assert compared.startswith("compared: log-probabilities within ") and compared.endswith("of torch at every depth")
    assert following == f"next:     layerdial profile {out}"
    manifest = Manifest.load(out)
    assert (manifest.licence, manifest.name) == ("CC-BY-4.0", "tones")
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    found = session.get_modelmeta().custom_metadata_map
    assert (found["licence"], found["name"]) == ("CC-BY-4.0", "tones")


@pytest.mark.medium
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("option", "precision"), [("--int8", "int8"), ("--fp16", "float16")])
def test_a_smaller_export_transcribes(
    laddered: Path, exported: Path, clip: Path, tmp_path: Path, option: str, precision: str
) -> None:
    out = tmp_path / "small"
    ended = command("export", laddered, out, option)
    assert ended.code == 0, ended.err
    assert f"({precision}, " in ended.out
    assert ("checked:  not for WER; --cuts DEV_CUTS does that" in ended.out) == (option == "--int8")
    assert (out / "model.onnx").stat().st_size < (exported / "model.onnx").stat().st_size
    assert command("transcribe", out, clip).out == f"{TEXT}\n"


@pytest.mark.usefixtures("quick")
def test_int8_with_cuts_says_the_errors_at_the_worst_depth(laddered: Path, corpus: Any, tmp_path: Path) -> None:
    ended = command("export", laddered, tmp_path / "small", "--int8", "--cuts", corpus.dev)
    assert ended.code == 0, ended.err
    assert "blocks in float: " in ended.err and "worst at depth " in ended.err and "not for WER" not in ended.out
    assert [row["depth"] for row in Manifest.load(tmp_path / "small").wer["rows"]] == [1, 2, 3]


@pytest.mark.medium
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("option", [(), ("--int8",), ("--fp16",)])
def test_an_export_for_sherpa_onnx_names_its_blocks_and_its_readme(
    laddered: Path, tmp_path: Path, option: tuple[str, ...]
) -> None:
    out = tmp_path / "sherpa"
    for forced in ((), ("--force",)):  # a second export replaces the first where that is asked for
        ended = command("export", laddered, out, "--format", "sherpa-onnx", "--depth", 2, *option, *forced)
        assert ended.code == 0, ended.err
        said = ended.out.splitlines()
        assert (
            said[0] == f"sherpa-onnx: {out} (blocks 1, 2 of 3)" and said[-1] == f"next:        see {out / 'README.md'}"
        )
        assert ("not for WER" in ended.out) == (option == ("--int8",))
    assert {path.name for path in out.iterdir()} == {
        *("model.onnx", "tokens.txt", "README.md", "manifest.json", "SHA256SUMS")
    }


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--int8", "--fp16"), ("--int8 and --fp16 exclude each other",)),
        (("--format", "tflite"), ("--format is 'tflite'", "layerdial, sherpa-onnx or web")),
        (("--format", "sherpa-onnx"), ("which", "--depth")),
        (("--format", "sherpa-onnx", "--depth", "4"), ("depth 4 does not exist", "1 to 3")),
        (("--depth", "2"), ("--depth is for --format sherpa-onnx",)),
        (("--int8", "--cuts", "nowhere.jsonl.gz"), ("nowhere.jsonl.gz",)),
        (("--cuts", "nowhere.jsonl.gz"), ("--cuts", "--int8")),
        (("--format", "sherpa-onnx", "--depth", "2", "--int8", "--cuts", "nowhere.jsonl.gz"), ("--cuts",)),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_options_that_make_no_sense_together_are_refused(
    laddered: Path, tmp_path: Path, options: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    assert_users_mistake(command("export", laddered, tmp_path / "out", *options), *parts)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("options", [(), ("--format", "sherpa-onnx", "--depth", "2")])
def test_an_export_that_is_there_is_replaced_only_by_force(
    laddered: Path, edge_folder: Path, options: tuple[str, ...]
) -> None:
    (edge_folder / "notes.txt").write_text("of mine")
    before = files(edge_folder)
    assert_users_mistake(command("export", laddered, edge_folder, *options), "holds an export already", "--force")
    assert files(edge_folder) == before
    assert command("export", laddered, edge_folder, "--force", *options).code == 0
    assert not (edge_folder / "notes.txt").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_int8_that_does_worse_by_its_own_check_is_not_written_unless_accepted(
    laddered: Path, edge_folder: Path, corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Int8, "holds", False)
    before = files(edge_folder)
    for out in (edge_folder, tmp_path / "small"):
        ended = command("export", laddered, out, "--int8", "--cuts", corpus.dev, "--force")
        assert ended.code == 3 and ended.out == "" and "Traceback" not in ended.err
        assert ended.err.splitlines()[-1].startswith(f"layerdial: {out} is not written: int8 makes ")
    assert files(edge_folder) == before and not (tmp_path / "small").exists()
    ended = command("export", laddered, tmp_path / "small", "--int8", "--cuts", corpus.dev, "--accept")
    assert ended.code == 0 and "checked:  WER is worse than in float, which you accept" in ended.out
    assert Manifest.load(tmp_path / "small").wer["holds"] is False


def test_models_that_cannot_be_exported_are_refused(exported: Path, tmp_path: Path) -> None:
    assert_users_mistake(command("export", exported, tmp_path / "out"), "is exported already")
    (tmp_path / "empty").mkdir()
    assert_users_mistake(command("export", tmp_path / "empty", tmp_path / "out"), "config.json")
    assert_users_mistake(command("export", tmp_path / "nowhere" / "model", tmp_path / "out"), "nowhere")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [(), ("--format", "sherpa-onnx", "--depth", "2")])
def test_places_that_hold_something_else_are_left_alone(
    laddered: Path, clip: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    before = files(tmp_path)
    assert_users_mistake(command("export", laddered, tmp_path, *options), "holds something that is no export")
    assert_users_mistake(command("export", laddered, clip, *options), "clip.wav is a file; name a folder")
    assert files(tmp_path) == before


# ------------------------------------------------------------------------------------------------------- transcribe


@pytest.mark.medium
def test_an_exported_model_prints_what_the_torch_model_prints(exported: Path, laddered: Path, clip: Path) -> None:
    for options in ((), ("--depth", "1"), ("--depth", "2"), ("--threads", "1")):
        ours, theirs = command("transcribe", exported, clip, *options), command("transcribe", laddered, clip, *options)
        assert (ours.code, ours.out, ours.err) == (theirs.code, theirs.out, theirs.err) == (0, f"{TEXT}\n", "")


def test_json_has_the_same_fields_as_for_a_torch_model(exported: Path, clip: Path) -> None:
    row = json.loads(command("transcribe", exported, clip, "--depth", 2, "--json").out)
    assert set(row) == {"file", "text", "depth", "subset", "audio_seconds", "seconds_taken", "seconds", "rtf"}
    assert row["audio_seconds"] == row["seconds"]
    assert row["seconds_taken"] == pytest.approx(row["rtf"] * row["seconds"], abs=1e-3)
    assert (row["file"], row["text"], row["depth"], row["subset"]) == (str(clip), TEXT, 2, "011")
    assert row["seconds"] == pytest.approx(soundfile.info(clip).duration, abs=0.001) and row["rtf"] > 0


@pytest.mark.medium
def test_with_a_promise_the_reason_is_said(exported: Path, clip: Path) -> None:
    row = json.loads(command("transcribe", exported, clip, "--deadline-ms", 60000, "--json").out)
    assert (row["depth"], row["text"], row["reason"].split(" within")[0]) == (3, TEXT, "deepest")
    row = json.loads(command("transcribe", exported, clip, "--deadline-ms", 0.001, "--json").out)
    assert (row["depth"], row["subset"]) == (1, "010") and row["reason"].startswith("shallowest: nothing keeps")
    plain = command("transcribe", exported, clip, "--target-rtf", 100)
    assert plain.out == f"{TEXT}\n" and f"{clip}: depth 3, deepest within " in plain.err
    row = json.loads(command("transcribe", exported, clip, "--max-cpu", 100, "--json").out)
    assert (row["depth"], row["reason"]) == (3, "deepest within 100 of a CPU")
    row = json.loads(command("transcribe", exported, clip, "--confidence", 0, "--json").out)
    assert row["depth"] == 1 and "sure" in row["reason"]


def test_chunks_are_listed_where_their_depths_differ(exported: Path, edge: Recognizer, tmp_path: Path) -> None:
    """Half a minute of tones, of which the shallowest depth is surer, or less sure, than of the noise behind them."""
    tones = np.concatenate([speak(TEXT, seed) for seed in range(20)])[: 31 * 16000]
    noise = np.random.default_rng(0).normal(0, 0.2, 40 * 16000)
    soundfile.write(tmp_path / "long.wav", np.concatenate([tones, noise]), 16000)
    sure = [chunk.confidence or 0.0 for chunk in edge.transcribe(tmp_path / "long.wav", depth=1).chunks]
    between = (min(sure) + max(sure)) / 2
    printed = command("transcribe", exported, tmp_path / "long.wav", "--confidence", between, "--json").out
    row = json.loads(printed)
    assert [chunk["depth"] for chunk in row["chunks"]] == [1 if one >= between else 3 for one in sure]
    assert row["depth"] == 3 and all(set(chunk) == {"start", "end", "depth", "reason"} for chunk in row["chunks"])
    assert row["chunks"][0]["start"] == 0 and row["chunks"][-1]["end"] == row["seconds"]
    for one, following in zip(row["chunks"], row["chunks"][1:], strict=False):
        assert one["end"] == following["start"]


@pytest.mark.parametrize("wish", WISHES)
def test_a_torch_model_makes_no_promises_and_says_how_to_get_them(laddered: Path, clip: Path, wish: str) -> None:
    ended = command("transcribe", laddered, clip, wish, 0.5)
    name = wish.removeprefix("--").replace("-", "_")
    assert_users_mistake(ended, f"{name} needs an exported model", f"layerdial export {laddered} OUT")
    assert ended.out == ""


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--depth", "4"), ("depth 4 does not exist", "1 to 3")),
        (("--depth", "0"), ("depth 0 does not exist",)),
        (("--depth", "2", "--deadline-ms", "50"), ("give one of depth, deadline_ms",)),
        (("--deadline-ms", "50", "--max-cpu", "1"), ("give one of deadline_ms, max_cpu",)),
        (("--deadline-ms", "0"), ("deadline_ms is 0",)),
        (("--deadline-ms", "nan"), ("deadline_ms is nan",)),
        (("--target-rtf", "-1"), ("target_rtf is -1",)),
        (("--confidence", "2"), ("confidence is 2", "0 to 1")),
        (("--device", "cuda"), ("is exported for CPUs",)),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_wishes_that_make_no_sense_are_one_line(
    exported: Path, clip: Path, options: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    assert_users_mistake(command("transcribe", exported, clip, *options), *parts)


def test_what_is_no_audio_is_said_and_the_rest_transcribed(exported: Path, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no audio")
    ended = command("transcribe", exported, tmp_path / "notes.txt", clip, "--deadline-ms", 60000)
    assert ended.code == 2 and "notes.txt is not audio" in ended.err and "Traceback" not in ended.err
    assert ended.out == f"{clip}: {TEXT}\n"


def test_a_damaged_export_is_one_line(edge_folder: Path, clip: Path) -> None:
    graph = (edge_folder / "model.onnx").read_bytes()
    (edge_folder / "model.onnx").write_bytes(graph[: len(graph) // 2])
    assert_users_mistake(command("transcribe", edge_folder, clip), "model.onnx cannot be loaded")
    (edge_folder / "model.onnx").unlink()
    assert_users_mistake(command("transcribe", edge_folder, clip), "model.onnx does not exist")
    (edge_folder / "manifest.json").write_text("{")
    assert_users_mistake(command("transcribe", edge_folder, clip), "manifest.json is not valid JSON")


# ------------------------------------------------------------------------------------------- sweep, search, profile


@pytest.mark.medium
def test_a_sweep_of_an_exported_model_counts_the_errors_and_costs_of_torch(
    exported: Path, laddered: Path, corpus: Any, tmp_path: Path
) -> None:
    rows = {}
    for name, model in (("onnx", exported), ("torch", laddered)):
        ended = command("sweep", model, corpus.dev, "--out", tmp_path / name, "--workers", 0, "--threads", 1)
        assert ended.code == 0, ended.err
        assert f"next:    layerdial transcribe {model} AUDIO" in ended.out
        rows[name] = [json.loads(line) for line in (tmp_path / name / "sweep.jsonl").read_text().splitlines()]
    for ours, theirs in zip(rows["onnx"], rows["torch"], strict=True):
        for field in ("depth", "subset", "errors", "words", "parameters", "audio_seconds", "select"):
            assert ours[field] == theirs[field]
        assert ours["macs_per_second"] == pytest.approx(theirs["macs_per_second"])
        assert ours["latency_ms"] > 0 and ours["rtf"] > 0
    assert rows["onnx"][0]["fingerprint"] == Manifest.load(exported).model_id


def test_a_search_with_an_exported_model_writes_its_ladder_by_wer(edge_folder: Path, corpus: Any) -> None:
    (edge_folder / "ladder.json").unlink()
    ended = command("search", edge_folder, corpus.dev, "--workers", 0)
    assert ended.code == 0, ended.err
    ladder = Ladder.load(edge_folder / "ladder.json", 3)
    assert ladder.metric == "wer" and [rung.loss for rung in ladder.rungs] == [None, None, None]
    assert f"ladder: {edge_folder / 'ladder.json'}" in ended.out
    assert not (edge_folder / "search.jsonl").exists()


def test_a_search_says_on_how_many_words_a_ladder_rests_and_keeps_the_one_before(
    edge_folder: Path, corpus: Any, tmp_path: Path
) -> None:
    """One cut must not replace without a word what a thousand words had found."""
    before = Ladder.load(edge_folder / "ladder.json", 3)
    one_cut = write_corpus(tmp_path / "one" / "dev.cuts.jsonl.gz", ["low high"])
    ended = command("search", edge_folder, one_cut, "--workers", 0)
    assert ended.code == 0, ended.err
    assert f"ladder: {edge_folder / 'ladder.json'} (found on 2 words)" in ended.out
    assert "rests on 2 words; below 500 it is chance that chooses" in ended.err
    kept = edge_folder / "ladder.previous.json"
    assert f"found on {before.rungs[-1].words} words, is kept as {kept}" in ended.err
    assert Ladder.load(kept, 3) == before != Ladder.load(edge_folder / "ladder.json", 3)
    kept.unlink()
    command("search", edge_folder, one_cut, "--workers", 0)  # the same again
    assert not kept.exists()


def test_an_exported_model_cannot_be_searched_by_loss(edge_folder: Path, corpus: Any) -> None:
    before = files(edge_folder)
    assert_users_mistake(
        command("search", edge_folder, corpus.dev, "--metric", "loss"), "gives texts alone", "--metric wer"
    )
    assert files(edge_folder) == before


@pytest.mark.medium
def test_a_profile_is_stored_and_shown_as_a_table_of_this_device(edge_folder: Path, clip: Path) -> None:
    ended = command("profile", edge_folder, "--threads", 1, "--budget", 1)
    assert ended.code == 0, ended.err
    assert ended.err == "measuring: 1 thread\n"
    lines = ended.out.splitlines()
    assert lines[0].startswith("1 thread, 10 s of audio; peak memory for 30 s: ")
    # a busy machine can measure a depth as slower than the next, and then it is not worth running
    keys = {1: "010", 2: "011", 3: "111"}
    shown = [int(line.split()[1]) for line in lines[1:-2]]
    assert [line.split()[:3] for line in lines[1:-2]] == [["depth", str(depth), keys[depth]] for depth in shown]
    assert shown == sorted(set(shown)) and shown[-1] == 3
    assert all("dev WER" in line and " ms" in line and "RTF" in line for line in lines[1:-2])
    assert lines[-2:] == [
        f"profile: {edge_folder / 'profile.json'}",
        f"next:    layerdial transcribe {edge_folder} AUDIO --deadline-ms 100",
    ]
    stored = json.loads((edge_folder / "profile.json").read_text())
    assert stored["model_id"] == Manifest.load(edge_folder).model_id
    [table] = stored["tables"]
    assert table["threads"] == 1 and list(table["network_ms"]) == ["1", "2", "3"]
    assert [row["depth"] for row in table["pareto"]] == shown
    assert command("transcribe", edge_folder, clip, "--deadline-ms", 60000).code == 0


@pytest.mark.parametrize("budget", ["nan", "inf", "0", "-5"])
def test_a_budget_that_is_no_time_is_refused(edge_folder: Path, budget: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_users_mistake(command("profile", edge_folder, "--budget", budget), "--budget is", "1 or more")
    with pytest.raises(UserError, match="--budget is"):  # as a device's own command line has it
        commands.profile_folder(edge_folder, (1,), float(budget))


def test_a_profile_of_another_device_is_spoken_of_once(
    edge_folder: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at every call; again when there is another profile."""
    monkeypatch.setattr(notices, "cache_folder", lambda: tmp_path / "cache")
    shutil.copy(Path(__file__).parents[1] / "old_artefacts" / "exported" / "profile.json", edge_folder)
    said = [command("transcribe", edge_folder, clip).err for _ in range(3)]
    assert "profile.json is of another device" in said[0] and said[1:] == ["", ""]
    os.utime(edge_folder / "profile.json", (1, 1))
    assert "profile.json is of another device" in command("transcribe", edge_folder, clip).err
    monkeypatch.setattr(notices, "cache_folder", lambda: tmp_path / "cache" / "no" / "folder")
    (tmp_path / "cache" / "no").touch()
    assert command("transcribe", edge_folder, clip).code == 0


def test_a_torch_model_has_no_profile(laddered: Path) -> None:
    assert_users_mistake(command("profile", laddered), "is not an exported model", "layerdial export")


def test_ctrl_c_on_a_device_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(device, "_run", interrupted)
    monkeypatch.setattr(sys, "argv", ["layerdial", "profile", "edge"])
    with pytest.raises(SystemExit) as ended:
        device.main()
    assert (ended.value.code, capsys.readouterr().err) == (130, "layerdial: interrupted\n")


@pytest.mark.parametrize("name", ["export", "profile", "prune"])
def test_the_commands_explain_themselves(name: str) -> None:
    ended = command(name, "--help")
    assert ended.code == 0 and "Usage" in ended.out
