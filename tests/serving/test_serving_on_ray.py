"""The application as a Ray Serve deployment, with a replica killed, and with more of them under load."""

from __future__ import annotations

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from layerdial.runtime import Recognizer
from layerdial.serving.options import ServeOptions
from tiny_processes import wait_for
from tiny_ray import processes, two_workers
from tiny_runtime import SAMPLES
from tiny_serving import Running

pytest_plugins = ["tiny_export"]
pytest.importorskip("ray", reason="ray is missing: pip install '.[ray]'")


FIELDS = {"depth": 3, "deadline_ms": 60000}


def replica_pids() -> list[int]:
    return processes("ServeReplica:layerdial")


@pytest.mark.slow
def test_replicas_follow_the_queue_and_one_that_is_killed_is_replaced(exported: Path, edge: Recognizer) -> None:
    from layerdial.serving import on_ray

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = edge.transcribe(SAMPLES).text
    server = Running(SimpleNamespace(names=("tones",)), port, 0, None, None)  # type: ignore[arg-type]
    with two_workers():
        on_ray.start(ServeOptions(str(exported), port=port, threads=1, name=("tones",), ray=True, replicas=2), 2)
        try:
            assert server.get("/v1/models").json["data"][0]["id"] == "tones"
            assert server.transcribe(**FIELDS).json["text"] == text
            (first,) = replica_pids()
            with ThreadPoolExecutor(16) as clients:
                while len(replica_pids()) < 2:  # pytest's own limit ends what never comes
                    replies = clients.map(lambda _: server.transcribe(**FIELDS), range(64))
                    assert {reply.json["text"] for reply in replies} == {text}
            os.kill(first, signal.SIGKILL)
            wait_for(lambda: first not in replica_pids())
            wait_for(lambda: server.transcribe(**FIELDS).status == 200)
            assert server.transcribe(**FIELDS).json["text"] == text
        finally:
            on_ray.stop()
