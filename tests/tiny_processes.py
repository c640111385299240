"""Waiting for other processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120  # for what must come, on a machine that does much else
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
