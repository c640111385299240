"""Streams of an exported model are those of torch, also in one dispatch and on the command line of a device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from conftest import made_once
from layerdial.export.export import export_model
from layerdial.export.streaming import Streaming
from layerdial.models.checkpoint import save_model
from layerdial.recognition.endpointing import Endpoints
from layerdial.recognition.streaming import step_streams
from layerdial.request import Request
from layerdial.runtime import Recognizer
from tiny_streaming import SECOND, results_of, sound, streaming_recognizer

pytestmark = pytest.mark.slow  # the export takes seconds
QUICK = Endpoints(silence=0.2, longest=2.0)
DEVICE = "from layerdial.cli.device import main; main()"


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    def make(folder: Path) -> None:
        model = streaming_recognizer()
        save_model(folder / "model", model.network, model.tokenizer, {})
        export_model(folder / "model", folder / "edge", streaming=Streaming())

    return Recognizer(made_once(tmp_path_factory, "edge-streams", make) / "edge", threads=1)


@pytest.mark.parametrize("request_", [Request(words=True), Request(beams=3, words=True)], ids=["greedy", "beams"])
def test_results_are_those_of_torch(edge: Recognizer, request_: Request) -> None:
    assert edge.takes_chunks
    found, expected = (
        results_of(one.stream(request_, depth=None, endpoints=QUICK), [sound(4.0)])
        for one in (edge, streaming_recognizer())
    )
    assert [(one.text, one.stable, one.final, one.end) for one in found] == [
        (one.text, one.stable, one.final, one.end) for one in expected
    ]
    for one, other in zip(found, expected, strict=True):
        assert [word.start for word in one.words] == [word.start for word in other.words]


def test_depth_may_change_in_every_chunk(edge: Recognizer) -> None:
    found, expected = (
        results_of(one.stream(depth=(3, 1, 2), chunk_ms=80, endpoints=QUICK), [sound(4.0)])
        for one in (edge, streaming_recognizer())
    )
    assert [(one.text, one.chunks) for one in found] == [(one.text, one.chunks) for one in expected]


def test_streams_in_one_dispatch_equal_each_alone(edge: Recognizer) -> None:
    audio = [sound(seconds, seed) for seed, seconds in enumerate((2.0, 1.3))]
    streams = [edge.stream(endpoints=QUICK) for _ in audio]
    for one, samples in zip(streams, audio, strict=True):
        one.feed(samples)
        one.end()
    together: list[list[str]] = [[], []]
    while any(one.ready for one in streams):
        for texts, results in zip(together, step_streams(streams), strict=True):
            texts += [result.text for result in results]
    assert together == [[one.text for one in results_of(edge.stream(endpoints=QUICK), [part])] for part in audio]


def test_the_command_line_of_a_device_streams(edge: Recognizer, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sound(3.0), SECOND, subtype="FLOAT")
    texts = [one.text for one in results_of(edge.stream(endpoints=Endpoints(silence=0.2)), [sound(3.0)]) if one.final]
    for words in (
        ["transcribe", edge.folder, tmp_path / "a.wav", "--stream", "--pause", "0.2"],
        ["listen", edge.folder, "--from", tmp_path / "a.wav", "--pause", "0.2"],
    ):
        program = [sys.executable, "-c", DEVICE, *map(str, words)]
        ended = subprocess.run(program, capture_output=True, text=True, check=True)
        lines = ended.stdout.splitlines()
        assert lines == texts or [line[19:] for line in lines] == texts
