"""`benchmarks/soak.py`: its clients against a server in this process, and what it says of memory and requests."""

from __future__ import annotations

import os
from argparse import Namespace

import pytest

from layerdial.runtime import Recognizer
from server_overhead import NAME
from soak import Line, Server, soak, verdict
from tiny import speak
from tiny_serving import TEXT, running

pytest_plugins = ["tiny_export"]


@pytest.mark.medium
def test_each_request_of_the_bursts_has_its_answer(edge: Recognizer) -> None:
    with running(edge, names=(NAME,)) as server:
        options = Namespace(minutes=0.005, burst=20, every=1.0)
        *_, last = soak(Server(os.getpid(), server.port, server.wyoming_port), [speak(TEXT, 77)], options)
    assert last.sent == 20 and last.answered > 0 and last.left > 0
    assert last.answered + last.refused + last.left == last.sent and last.lost == 0


@pytest.mark.parametrize(
    ("memory", "answered", "words"),
    [
        ([400, 100, 103, 100, 102], 5, ["memory: flat: 100 to 103 MB", "500 MB in a burst", "0 lost"]),
        ([400, 100, 103, 106, 112], 5, ["memory: missed: 100 to 112 MB"]),
        ([100, 100, 120, 100, 100], 5, ["memory: missed"]),
        ([100, 100, 100, 100, 100], 4, ["1 lost"]),
    ],
)
def test_memory_counts_behind_the_warm_up_and_every_request_counts(
    memory: list[int], answered: int, words: list[str]
) -> None:
    lines = [Line(10.0 * (n + 1), mb, 500, 9, 8, answered, 2, 1, 0) for n, mb in enumerate(memory)]
    said = verdict(lines, warm_up_s=20)
    assert all(word in said for word in words), said
