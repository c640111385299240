"""One graph: runs that are cancelled, weights beside it, and what a fresh process needs to run it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from layerdial import BlockSubset, UserError
from layerdial.audio.files import SAMPLE_RATE
from layerdial.runtime import Recognizer
from layerdial.runtime.session import Cancel, Cancelled
from tiny import speak
from tiny_runtime import EVERY_SUBSET, HALF_A_MINUTE, SAMPLES, TEXT, change, cut

pytest_plugins = ["tiny_export"]


def test_a_run_that_is_cancelled_by_another_thread_ends(edge: Recognizer) -> None:
    inputs = np.tile(edge.features(SAMPLES), (10, 30, 1))
    lengths_B = np.full(len(inputs), inputs.shape[1])
    for delay in (0.0, 0.005, 0.02):
        cancel = Cancel()
        timer = threading.Timer(delay, cancel)
        timer.start()
        with pytest.raises(Cancelled):
            for _ in range(1000):
                edge.session.posteriors(inputs, lengths_B, BlockSubset.full(3), cancel)
        timer.join()
    assert edge.transcribe(SAMPLES).text == TEXT


def test_a_cancel_before_the_run_stops_it(edge: Recognizer) -> None:
    cancel = Cancel()
    cancel()
    with pytest.raises(Cancelled):
        edge.session.posteriors(edge.features(SAMPLES)[None], np.array([204]), BlockSubset.full(3), cancel)


def test_weights_beside_the_graph_give_the_same(copy: Path, edge: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx_ir

    import layerdial.export.writer

    weights, graph = copy / "model.weights", copy / "model.onnx"
    monkeypatch.setattr(layerdial.export.writer, "EXTERNAL_FROM_MB", 0)
    layerdial.export.writer.save_graph(onnx_ir.load(edge.session.file), copy)
    change(copy / "manifest.json", sha256=..., checksum=...)  # which are of the graph in one file
    assert weights.stat().st_size > 100_000 and graph.stat().st_size < edge.session.file.stat().st_size
    recognizer = Recognizer(copy, threads=1)
    inputs = edge.features(SAMPLES)[None]
    for subset in EVERY_SUBSET:
        ours, theirs = (
            r.session.posteriors(inputs, np.array([inputs.shape[1]]), subset)[0] for r in (recognizer, edge)
        )
        np.testing.assert_array_equal(ours, theirs)
    cut(weights)
    with pytest.raises(UserError, match=r"model\.(onnx|weights)") as problem:
        Recognizer(copy, threads=1)
    assert "\n" not in str(problem.value)
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.weights"):
        Recognizer(copy, threads=1)


# ------------------------------------------------------------------------------------------------------ a fresh process


def in_new_process(code: str, *arguments: object) -> Any:
    """The JSON that a Python program prints."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


UNWANTED = ("torch", "lhotse", "transformers", "onnx", "rich", "typer", "jiwer", "sentencepiece", "pydantic", "yaml")


def test_neither_import_nor_use_of_the_runtime_needs_the_packages_of_training(exported: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speak(TEXT, seed=77, rate=8000), 8000)
    code = """
import json, sys
import layerdial.runtime
imported = set(sys.modules)
recognizer = layerdial.runtime.Recognizer(sys.argv[1])
texts = [recognizer.transcribe(sys.argv[2]).text]
texts += [recognizer.transcribe(sys.argv[2], deadline_ms=1e9, confidence=1.0).text]
texts += recognizer.transcribe_batch([recognizer._profile and None or __import__("numpy").zeros(16000, "float32")])
print(json.dumps({"imported": sorted(imported), "used": sorted(sys.modules), "texts": texts}))
"""
    found = in_new_process(code, exported, tmp_path / "a.wav")
    assert found["texts"] == [TEXT, TEXT, ""]
    for when in ("imported", "used"):
        assert not {name.partition(".")[0] for name in found[when]} & set(UNWANTED), when
    assert "onnxruntime" not in found["imported"]


# not getrusage(), which on Linux never says less than the process had from which it was started
PEAK = """
import json, sys
from pathlib import Path
from layerdial.runtime import Recognizer
recognizer = Recognizer(sys.argv[1], 1)
words = len(recognizer.transcribe(sys.argv[2], depth=3).text.split())
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps([words, int(status["VmHWM"].split()[0]) / 1000]))
"""


@pytest.fixture
def minutes(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Files of so many minutes of words, 16 kHz."""
    made: list[Path] = []

    def write(count: int) -> Path:
        made.append(tmp_path / f"{count}.flac")
        with soundfile.SoundFile(made[-1], "w", SAMPLE_RATE, 1) as file:
            for _ in range(2 * count):
                file.write(HALF_A_MINUTE)
        return made[-1]

    yield write
    for path in made:
        path.unlink()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak like this")
@pytest.mark.slow  # an hour of audio is written, read and recognised
def test_an_hour_needs_hardly_more_memory_than_a_minute(exported: Path, minutes: Callable[[int], Path]) -> None:
    short_words, short_mb = in_new_process(PEAK, exported, minutes(1))
    words, mb = in_new_process(PEAK, exported, minutes(60))
    print(f"peak of a minute {short_mb:.0f} MB, of an hour {mb:.0f} MB")
    assert words > 55 * short_words
    assert mb < short_mb + 20 and mb < 200
