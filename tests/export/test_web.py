"""`layerdial export --format web` writes a folder that holds the exported model, the page, and lists of both."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from layerdial.errors import UserError
from layerdial.export.for_web import export_web, refuse_options
from layerdial.export.onnxruntime_web import SHA256, VERSION, onnxruntime_web
from layerdial.export.web_folder import PAGE, write_web_folder
from layerdial.runtime import Recognizer
from tiny import command

pytest_plugins = ["tiny_export"]
OLD = Path(__file__).parents[1] / "old_artefacts" / "exported"
RUNTIME = dict.fromkeys(SHA256, b"not looked at here")


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web") / "tones"
    write_web_folder(folder, OLD, RUNTIME)
    return folder


def listed(folder: Path) -> dict[str, str]:
    text = (folder / "files.js").read_text(encoding="utf-8")
    found: dict[str, str] = json.loads(text[text.index("{") : text.rindex("}") + 1])
    return found


def test_every_file_is_listed_with_its_hash_but_for_what_browsers_keep_themselves(web: Path) -> None:
    files = {file.relative_to(web).as_posix(): file for file in web.rglob("*") if file.is_file()}
    hashes = listed(web)
    assert set(files) - set(hashes) == {"keep.js", "files.js"} and set(hashes) <= set(files)
    for name, expected in hashes.items():
        assert expected == "sha256-" + base64.b64encode(hashlib.sha256(files[name].read_bytes()).digest()).decode()


def test_the_version_changes_with_any_file(web: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    write_web_folder(again, OLD, RUNTIME)
    assert (again / "files.js").read_bytes() == (web / "files.js").read_bytes()
    write_web_folder(again, OLD, {**RUNTIME, "ort-wasm-simd-threaded.wasm": b"another"})
    first = [(folder / "files.js").read_text().splitlines()[0] for folder in (web, again)]
    assert first[0] != first[1]


def test_the_model_in_it_is_an_exported_folder_that_writes_the_same(web: Path) -> None:
    samples = np.random.default_rng(0).normal(0.0, 0.1, 32000).astype(np.float32)
    own, copied = (Recognizer(folder, threads=1).transcribe(samples, depth=2) for folder in (OLD, web / "model"))
    assert (own.text, own.subset) == (copied.text, copied.subset)


def test_the_page_knows_the_depths_and_blocks_of_the_ladder(web: Path) -> None:
    facts = json.loads((web / "web.json").read_text())
    assert [(row["depth"], row["subset"]) for row in facts["depths"]] == [(1, "001"), (2, "011"), (3, "111")]
    assert facts["features"] == {"spectrum": [400, 486], "mel": [486, 80]} and facts["samples_per_frame"] == 640


def test_the_page_names_no_other_host_and_all_its_modules_are_there() -> None:
    for file in PAGE.iterdir():
        text = file.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "http:" not in text and "https:" not in text
        for module in re.findall(r'(?:from|href=|src=) ?"\.?/?([\w-]+\.\w+)"', text):
            assert (PAGE / module).is_file(), f"{file.name} names {module}"


def test_an_earlier_folder_is_replaced_with_force_alone(web: Path, tmp_path: Path) -> None:
    out = shutil.copytree(web, tmp_path / "out")
    with pytest.raises(UserError, match="holds an export already; add --force"):
        export_web(OLD, out)
    with pytest.raises(UserError, match=r"none\.tgz does not exist"):  # nothing is written before that
        export_web(OLD, out, tmp_path / "none.tgz", force=True)
    assert (out / "files.js").is_file()


def test_a_damaged_model_is_not_copied(copy: Path, tmp_path: Path) -> None:
    with (copy / "tokens.txt").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=r"tokens\.txt is damaged or was changed"):
        write_web_folder(tmp_path / "out", copy, RUNTIME)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------------- errors


def refused(*source: Path) -> str:
    with pytest.raises(UserError) as caught:
        onnxruntime_web(*source)
    return str(caught.value)


def test_a_runtime_that_is_missing_damaged_or_of_another_version_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make = f"`npm pack onnxruntime-web@{VERSION}` makes onnxruntime-web-{VERSION}.tgz"
    assert refused() == f"onnxruntime-web is not here: {make}, which --onnxruntime-web FILE names"
    assert refused(Path("x.tgz")) == f"x.tgz does not exist; {make}"
    Path("x.tgz").write_bytes(b"no archive")
    assert refused(Path("x.tgz")) == f"x.tgz is not a readable archive of npm; {make}"
    package = Path("node_modules/onnxruntime-web/dist")
    package.mkdir(parents=True)
    found = refused()
    assert found.startswith("node_modules/onnxruntime-web has no ort.wasm.bundle.min.mjs, so it is not")
    for name in SHA256:
        (package / name).write_bytes(b"older")
    assert "is damaged or not that of onnxruntime-web" in refused()


def test_features_that_the_page_does_not_compute_are_refused(copy: Path, tmp_path: Path) -> None:
    file = copy / "manifest.json"
    stored = json.loads(file.read_text())
    stored["features"] = {"kind": "samples", "normalise": True, "convolutions": [[10, 5, 0]]}
    file.write_text(json.dumps(stored))
    with pytest.raises(UserError, match="takes features of the kind Samples, which the page does not compute"):
        write_web_folder(tmp_path / "out", copy, RUNTIME)


def test_an_exported_model_takes_no_options_of_an_export(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is exported already, and is copied as it is; leave --int8 and --name out"):
        refuse_options(OLD, "int8", None, "other")
    refuse_options(OLD, "float32", None, None)


def test_a_device_exports_for_the_web_too(tmp_path: Path) -> None:
    code = "import sys; sys.modules.update(torch=None, typer=None); from layerdial.cli.device import main; main()"
    arguments = ["export", OLD, tmp_path / "out", "--format"]
    for options, message in [
        (["web", "--onnxruntime-web", "none.tgz"], "none.tgz does not exist"),
        (["layerdial"], "a device exports with --format web alone; for the others: "),
    ]:
        words = [sys.executable, "-c", code, *map(str, [*arguments, *options])]
        ended = subprocess.run(words, capture_output=True, text=True)
        assert ended.returncode == 2 and ended.stderr.startswith(f"layerdial: {message}"), ended.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "web", "--depth", "2"], "--depth is for --format sherpa-onnx; other exports run at every depth"),
        (["--onnxruntime-web", "x"], "--onnxruntime-web is for --format web; other formats hold no runtime"),
        (["--format", "page"], "--format is 'page'; choose layerdial, sherpa-onnx or web"),
    ],
)
def test_options_of_other_formats_are_refused(options: list[str], message: str, tmp_path: Path) -> None:
    ended = command("export", OLD, tmp_path / "out", *options)
    assert (ended.code, ended.err) == (2, f"layerdial: {message}\n")
