"""Many files, several processes: one row a file, whatever ends a process or the run."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import soundfile

from layerdial.bulk import run
from layerdial.bulk.answers import answer_file
from layerdial.bulk.child import Child
from layerdial.bulk.run import Bulk, transcribe_manifest
from layerdial.cli import device
from layerdial.errors import UserError
from layerdial.request import Request
from layerdial.runtime import Recognizer
from layerdial.runtime.recognizer import OnnxRecognizer
from tiny import Ended, command, in_child, sentences, speak

pytest_plugins = ["tiny_export"]
N = 12


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    for number, text in enumerate(sentences(N, seed=3)):
        soundfile.write(folder / f"{number}.wav", speak(text, number), 16000)
    return [folder / f"{number}.wav" for number in range(N)]


def write(path: Path, files: list[Path]) -> Path:
    path.write_text("".join(json.dumps({"file": str(file)}) + "\n" for file in files))
    return path


def bulk_of(model: Path, folder: Path, files: list[Path], **more: Any) -> Bulk:
    load = partial(OnnxRecognizer, str(model), 1)
    return Bulk(write(folder / "in.jsonl", files), folder / "out.jsonl", "tones", load, Request(), **more)


def rows_of(bulk: Bulk) -> list[dict[str, Any]]:
    return [json.loads(line) for line in bulk.out.read_text().splitlines()]


@pytest.mark.medium
def test_one_row_a_file_and_no_more_in_a_second_run(
    exported: Path, edge: Recognizer, clips: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also with a process killed in the middle, a file that is not there, and a last row that was torn."""
    bulk = bulk_of(exported, tmp_path, [*clips, tmp_path / "none.wav"], workers=2)
    bulk.out.write_text('{"file": "torn')
    killed = list[int]()
    answer = Child.answer

    def kill_first(self: Child, file: str, request: Request) -> Any:
        if Path(file) == clips[4] and not killed:
            self.start()
            killed.append(self.pid)
            os.kill(self.pid, signal.SIGKILL)
        return answer(self, file, request)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Child, "answer", kill_first)
        assert transcribe_manifest(bulk) == 2
    assert killed
    rows = {row["file"]: row for row in rows_of(bulk)}
    assert len(rows_of(bulk)) == N + 1
    assert "does not exist" in rows.pop(str(tmp_path / "none.wav"))["error"]
    assert {file: row["text"] for file, row in rows.items()} == {str(c): edge.transcribe(c).text for c in clips}
    assert "(13 new rows, 13 in all, 1 of them errors)" in capsys.readouterr().out
    assert transcribe_manifest(bulk) == 2 and len(rows_of(bulk)) == N + 1


@pytest.mark.medium
def test_an_interrupted_run_goes_on(exported: Path, clips: list[Path], tmp_path: Path) -> None:
    bulk = bulk_of(exported, tmp_path, clips, workers=1)
    write_row = run.Rows.write

    def interrupt(self: run.Rows, task: Any, row: Any) -> None:
        write_row(self, task, row)
        if self.written == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(run.Rows, "write", interrupt)
        transcribe_manifest(bulk)
    assert 3 <= len(rows_of(bulk)) < N
    assert transcribe_manifest(bulk) == 0
    assert sorted(row["file"] for row in rows_of(bulk)) == sorted(map(str, clips))


@pytest.mark.medium
def test_a_time_that_cannot_be_kept_is_refused_and_another_is_kept(
    exported: Path, clips: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime.now().astimezone()
    soon = bulk_of(exported, tmp_path, clips, workers=1, end=now + timedelta(seconds=-1))
    with pytest.raises(UserError, match=r"cannot be kept: the shallowest depth, 1, needs about .* in 12 files"):
        transcribe_manifest(soon)
    later = bulk_of(exported, tmp_path, clips[:2], workers=1, end=now + timedelta(hours=1))
    assert transcribe_manifest(later) == 0
    assert [row["depth"] for row in rows_of(later)] == [3, 3]
    assert "layerdial: depth 3: " in capsys.readouterr().err


def test_a_request_that_the_model_refuses_is_refused_once(exported: Path, clips: list[Path], tmp_path: Path) -> None:
    bulk = bulk_of(exported, tmp_path, clips)
    with pytest.raises(UserError, match="language is for encoder-decoder models"):
        transcribe_manifest(Bulk(bulk.manifest, bulk.out, "m", bulk.load, Request(language="de")))
    assert not bulk.out.exists()


def test_two_runs_do_not_write_to_one_file(tmp_path: Path) -> None:
    with (
        run._alone(tmp_path / "out"),
        pytest.raises(UserError, match="being written"),
        run._alone(tmp_path / "out"),
    ):
        pass


@pytest.mark.parametrize(("number", "again"), [(errno.EIO, True), (errno.ESTALE, True), (errno.EACCES, False)])
def test_errors_of_a_disk_may_pass(edge: Recognizer, number: int, again: bool) -> None:
    class Broken:
        def answer(self, *arguments: Any) -> Any:
            try:
                raise OSError(number, os.strerror(number))
            except OSError:
                raise UserError("a.wav cannot be read") from None

    answer = answer_file(Broken(), "a.wav", Request())  # type: ignore[arg-type]
    assert answer.failed and answer.again == again


@pytest.mark.parametrize("words", [["--out", "x"], ["--finish-by", "18:00"], ["--manifest", "f"], ["--workers", "2"]])
def test_options_of_a_manifest_belong_together(words: list[str], clips: list[Path]) -> None:
    audio = [] if "--manifest" in words else [str(clips[0])]
    for ended in both("transcribe", *audio, *words):
        assert ended.code == 2 and ended.err.count("\n") == 1 and "--manifest" in ended.err, ended.err


def test_options_of_audio_files_are_refused_with_a_manifest() -> None:
    for ended in both("transcribe", "--manifest", "f", "--out", "o", "--json"):
        assert ended.code == 2 and "--json is for audio files" in ended.err


def both(*words: str) -> list[Ended]:
    """What both command lines say."""

    def on_a_device() -> None:
        sys.argv = ["layerdial", *words]
        device.main()

    return [command(*words), in_child(on_a_device)]
