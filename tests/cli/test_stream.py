"""`layerdial transcribe --stream` as a user meets it: lines, JSON rows, a terminal's rewritten line, and mistakes."""

from __future__ import annotations

import json
import os
import pty
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from layerdial import load_model
from layerdial.models.checkpoint import save_model
from layerdial.recognition.endpointing import Endpoints
from layerdial.recognition.stream_results import StreamResult
from layerdial.runtime import streamed_files
from tiny import command
from tiny_streaming import SECOND, results_of, sound, streaming_recognizer

ENGLISH = Path(__file__).parents[2] / "models" / "english"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A streaming model of torch, and recordings."""
    made = tmp_path_factory.mktemp("stream")
    model = streaming_recognizer()
    save_model(made / "model", model.network, model.tokenizer, {})
    for name, seed in (("a", 0), ("b", 1)):
        soundfile.write(made / f"{name}.wav", sound(3.0, seed), SECOND, subtype="FLOAT")
    load_model(made / "model").stream()  # imports once what takes a while, and not in each child
    return made


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def expected(seed: int = 0, pause: float = 0.2) -> list[StreamResult]:
    return results_of(streaming_recognizer().stream(endpoints=Endpoints(silence=pause)), [sound(3.0, seed)])


def finals(results: list[StreamResult]) -> list[str]:
    return [result.text for result in results if result.final]


@pytest.mark.medium
@pytest.mark.usefixtures("here")
def test_without_a_terminal_there_are_final_lines_alone() -> None:
    ended = command("transcribe", "model", "a.wav", "--stream", "--pause", 0.2)
    assert (ended.code, ended.err, ended.out.splitlines()) == (0, "", finals(expected()))
    both = command("transcribe", "model", "a.wav", "b.wav", "--stream", "--pause", 0.2, "--depth", 3)
    assert both.out.splitlines() == [
        f"{name}.wav: {text}" for seed, name in enumerate("ab") for text in finals(expected(seed))
    ]


@pytest.mark.medium
@pytest.mark.usefixtures("here")
def test_json_has_a_row_for_each_result() -> None:
    ended = command("transcribe", "model", "a.wav", "--stream", "--json", "--pause", 0.2, "--words")
    rows, results = [json.loads(line) for line in ended.out.splitlines()], expected()
    assert [(row["final"], row["text"]) for row in rows] == [(one.final, one.text) for one in results]
    for row, result in zip(rows, results, strict=True):
        assert row["file"] == "a.wav" and row["depth"] == 3 and row["end"] == round(result.end, 3)
        assert ("stable" in row) != row["final"] == ("words" in row)


@pytest.mark.medium
@pytest.mark.usefixtures("here")
def test_in_a_terminal_a_line_shows_the_text_so_far() -> None:
    shown = in_terminal("transcribe", "model", "a.wav", "--stream", "--pause", "0.2")
    lines = [line.rsplit("\r\x1b[K", 1)[-1] for line in shown.split("\r\n")]
    results = expected()
    assert lines == [*finals(results), ""]
    first = next(one for one in results if not one.final)
    assert shown.startswith(f"\r\x1b[K{first.stable}\x1b[2m{first.text[len(first.stable) :]}\x1b[0m\r\x1b[K")


def in_terminal(*words: str) -> str:
    """What a command writes to a terminal."""
    child, terminal = pty.fork()
    if child == 0:
        from layerdial.cli.app import main

        os.environ["TERM"] = "xterm"
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - lives as long as the child
        sys.argv = ["layerdial", *words]
        try:
            main()
        finally:
            sys.stdout.flush()
            os._exit(0)
    shown = b"".join(_read(terminal)).decode()
    os.waitpid(child, 0)
    return shown


def _read(terminal: int) -> Iterator[bytes]:
    try:
        while part := os.read(terminal, 1 << 16):
            yield part
    except OSError:  # the other end is closed
        return
    finally:
        os.close(terminal)


@pytest.mark.medium
@pytest.mark.usefixtures("here")
def test_a_damaged_recording_is_one_line_and_the_others_are_streamed() -> None:
    Path("c.wav").write_bytes(Path("a.wav").read_bytes()[:1000])
    ended = command("transcribe", "model", "c.wav", "b.wav", "--stream", "--pause", 0.2)
    assert ended.code == 2 and ended.err.startswith("layerdial: c.wav is truncated") and ended.err.count("\n") == 1
    assert ended.out.splitlines() == [f"b.wav: {text}" for text in finals(expected(1))]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["a.wav", "--chunk-ms", "80"], "--chunk-ms is for --stream; give that too"),
        (["a.wav", "--pause", "1"], "--pause is for --stream; give that too"),
        (["a.wav", "--stream", "--chunk-ms", "100"], "chunks are of 100 ms; give a multiple of 40"),
        (["a.wav", "--stream", "--pause", "9"], "--pause is 9; give 0.1 to 5 seconds"),
        (["a.wav", "--stream", "--format", "srt"], "--format srt is written of whole recordings"),
        (["a.wav", "--stream", "--output-dir", "x"], "--output-dir is for whole recordings; leave it out, or --stream"),
        (["a.wav", "--stream", "--channel", "each"], "--stream takes one channel"),
        (["a.wav", "--stream", "--vad"], "vad is for whole recordings"),
        (["a.wav", "--stream", "--depth", "9"], "depth 9 does not exist"),
        (["a.wav", "--stream", "--confidence", "0.9"], "confidence is for whole recordings"),
        (["none.wav", "--stream"], "none.wav does not exist"),
        (["--stream", "--manifest", "m.jsonl", "--out", "o.jsonl"], "--stream is for audio files"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.usefixtures("here")
def test_a_mistake_is_one_line(words: list[str], problem: str) -> None:
    ended = command("transcribe", "model", *words)
    assert ended.code == 2 and problem in ended.err, ended.err
    assert ended.err.count("\n") == 1 and ended.err.startswith("layerdial: ") and ended.out == ""


@pytest.mark.usefixtures("here")
def test_a_model_for_whole_utterances_says_what_to_do() -> None:
    ended = command("transcribe", ENGLISH, "a.wav", "--stream")
    assert ended.code == 2 and "takes whole utterances; for streams, export a streaming model" in ended.err
    ended = command("listen", ENGLISH, "--from", "a.wav", "--chunk-ms", 80)
    assert ended.code == 2 and "--chunk-ms is for streaming models" in ended.err


@pytest.mark.slow  # a file that plays in real time is waited for
@pytest.mark.usefixtures("here")
def test_listen_shows_partial_text_where_the_model_streams() -> None:
    soundfile.write("short.wav", sound(3.0)[: int(1.5 * SECOND)], SECOND, subtype="FLOAT")
    results = results_of(
        streaming_recognizer().stream(endpoints=Endpoints(silence=0.2)), [sound(3.0)[: int(1.5 * SECOND)]]
    )
    ended = command("listen", "model", "--from", "short.wav", "--pause", 0.2, "--json", "--out", "out.jsonl")
    rows = [json.loads(line) for line in ended.out.splitlines()]
    assert [(row["final"], row["text"]) for row in rows] == [(one.final, one.text) for one in results]
    written = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert written == [row for row in rows if row["final"]] and all("delay_seconds" in row for row in written)
    lines = command("listen", "model", "--from", "short.wav", "--pause", 0.2).out.splitlines()
    assert [line[19:] for line in lines] == finals(results) and all(line.startswith("depth  3 ") for line in lines)


def test_ctrl_c_comes_behind_the_text_of_what_was_heard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parts(audio: Path) -> Iterator[tuple[np.ndarray, int]]:
        yield sound(1.0), SECOND
        raise KeyboardInterrupt

    monkeypatch.setattr(streamed_files, "parts_of_file", parts)
    stream, found = streaming_recognizer().stream(), list[StreamResult]()
    with pytest.raises(KeyboardInterrupt):
        found.extend(streamed_files._results(stream, folder / "a.wav"))
    assert found == results_of(streaming_recognizer().stream(), [sound(1.0)])


@pytest.mark.usefixtures("here")
def test_a_pipe_has_the_texts_of_the_file_up_to_where_it_is_cut_short() -> None:
    content = Path("a.wav").read_bytes()
    os.mkfifo("pipe")
    for given in (content, content[:-4]):
        thread = threading.Thread(target=Path("pipe").write_bytes, args=[given])
        thread.start()
        ended = command("transcribe", "model", "pipe", "--stream", "--pause", 0.2)
        thread.join()
        whole = finals(expected())
        if given is content:
            assert (ended.code, ended.err, ended.out.splitlines()) == (0, "", whole)
    assert (ended.code, ended.out.splitlines()) == (2, whole)  # one sample less says the same
    assert ended.err == "layerdial: pipe is damaged or truncated (its header announces 4 more bytes)\n"
