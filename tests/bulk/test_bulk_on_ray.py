"""Many files on a Ray cluster of two workers, one of which is killed."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import soundfile

from layerdial.bulk.run import Bulk, transcribe_manifest
from layerdial.request import Request
from layerdial.runtime import Recognizer
from layerdial.runtime.recognizer import OnnxRecognizer
from tiny import sentences, speak
from tiny_ray import two_workers

pytest_plugins = ["tiny_export"]
pytest.importorskip("ray", reason="ray is missing: pip install '.[ray]'")
N = 40


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_does_nothing_twice(
    exported: Path, edge: Recognizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from layerdial.bulk.on_ray import RemoteChild

    clips = [tmp_path / f"{number}.wav" for number in range(N)]
    for number, text in enumerate(sentences(N, seed=3)):
        soundfile.write(clips[number], speak(text, number), 16000)
    manifest = tmp_path / "in.jsonl"
    manifest.write_text("".join(json.dumps({"file": str(clip)}) + "\n" for clip in clips))
    bulk = Bulk(
        manifest, tmp_path / "out.jsonl", "tones", partial(OnnxRecognizer, str(exported), 1), Request(), 2, ray=True
    )
    workers, killed = set[int](), list[int]()
    answer = RemoteChild.answer

    def watched(self: RemoteChild, file: str, request: Request) -> Any:
        self.start()
        workers.add(self.pid)
        if Path(file) == clips[N // 2] and not killed:
            killed.append(self.pid)
            os.kill(self.pid, signal.SIGKILL)
        return answer(self, file, request)

    monkeypatch.setattr(RemoteChild, "answer", watched)
    with two_workers():
        assert transcribe_manifest(bulk) == 0
        assert transcribe_manifest(bulk) == 0  # there is nothing left to do
    rows = [json.loads(line) for line in bulk.out.read_text().splitlines()]
    assert len(killed) == 1 and len(workers) == 3
    assert len(rows) == N
    assert {row["file"]: row["text"] for row in rows} == {str(clip): edge.transcribe(clip).text for clip in clips}
