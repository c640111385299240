"""A loaded recogniser in other processes: pickled, and in children that are forked at any moment."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from layerdial import load_model
from layerdial.runtime.scheduler import _WATCHDOG
from tiny import in_child, speak

pytest_plugins = ["tiny_export"]
pytestmark = pytest.mark.medium  # loads models again and again, some in processes of their own

TEXT = "low high middle"
SAMPLES = speak(TEXT, 5)
EITHER = pytest.mark.parametrize("kind", ["exported", "learnt"])


@pytest.fixture
def folder(kind: str, request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(kind)
    return found


@contextmanager
def seconds_at_most(seconds: int) -> Iterator[None]:
    """End this process if the block takes longer: a hang is a failure, not a wait."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    yield
    signal.alarm(0)


@EITHER
def test_a_recognizer_is_pickled_as_its_folder(folder: Path) -> None:
    recognizer = load_model(folder, threads=2 if folder.name == "edge" else None)
    stored = pickle.dumps(recognizer)
    assert len(stored) < 1000
    again = pickle.loads(stored)
    assert again.transcribe(SAMPLES).text == TEXT
    assert (again.name, again.threads, again.ladder) == (recognizer.name, recognizer.threads, recognizer.ladder)


@EITHER
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_pool_of_processes_transcribes_with_it(folder: Path, method: str) -> None:
    recognizer: Any = load_model(folder)
    assert recognizer.transcribe(SAMPLES).text == TEXT
    with multiprocessing.get_context(method).Pool(1) as pool:
        found = pool.apply_async(recognizer.transcribe, (SAMPLES,)).get(60)
    assert found.text == TEXT


@EITHER
@pytest.mark.parametrize("threads", [4])
def test_a_forked_child_transcribes_and_ends(folder: Path, threads: int) -> None:
    """It ends by `sys.exit`, as under gunicorn: all that is left is torn down; without a child of tests' own making."""
    code = f"""
import os, signal, sys
import numpy as np
from layerdial import load_model
recognizer = load_model({str(folder)!r}, threads={threads})
samples = np.load({str(folder.parent / "clip.npy")!r})
before = recognizer.transcribe(samples).text
if (child := os.fork()) == 0:
    signal.alarm(60)
    print(before == recognizer.transcribe(samples).text == {TEXT!r}, flush=True)
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
if (child := os.fork()) == 0:
    signal.alarm(60)
    sys.exit(8)  # without having used it
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), recognizer.transcribe(samples).text == before)
"""
    import numpy as np

    np.save(folder.parent / "clip.npy", SAMPLES)
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert ran.stdout.splitlines() == ["True", "7", "8 True"], ran.stderr


def test_a_fork_while_others_transcribe_waits_for_nobody(exported: Path) -> None:
    """The slots, locks and sessions of threads that are not in the child are free there."""
    recognizer: Any = load_model(exported, threads=1)
    assert recognizer.transcribe(SAMPLES, deadline_ms=60_000).text == TEXT  # a controller and a watchdog
    held: list[Callable[[], object]] = [recognizer._making.release, recognizer._controller._lock.release]
    recognizer._making.acquire()
    recognizer._controller._lock.acquire()
    while recognizer._slots.acquire(blocking=False):
        held.append(recognizer._slots.release)
    locked, end = threading.Event(), threading.Event()

    def hold_the_watchdog() -> None:
        with _WATCHDOG._wakes:
            locked.set()
            end.wait()

    holder = threading.Thread(target=hold_the_watchdog)
    holder.start()
    locked.wait()

    def transcribe() -> None:
        with seconds_at_most(60):
            print(
                recognizer.transcribe(SAMPLES, deadline_ms=60_000).text, recognizer.transcribe(SAMPLES, depth=1).depth
            )

    ended = in_child(transcribe)
    end.set()
    holder.join()
    for release in held:
        release()
    assert (ended.code, ended.out) == (0, f"{TEXT} 1\n"), ended.err
    assert recognizer.transcribe(SAMPLES).text == TEXT


def test_a_child_that_lost_the_folder_says_so(exported: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(exported, tmp_path / "edge")
    recognizer = load_model(tmp_path / "edge")
    shutil.rmtree(tmp_path / "edge")
    assert recognizer.transcribe(SAMPLES).text == TEXT
    ended = in_child(lambda: recognizer.transcribe(SAMPLES))
    assert "UserError" in ended.err and "model.onnx does not exist" in ended.err
