"""Data workers that wait for a disk that is gone, of which a FIFO that nobody writes to is the nearest thing here."""

from __future__ import annotations

import logging
import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.data
from torch.utils.data import Dataset

from layerdial.data import now_reading, watched
from layerdial.data.loading import Reading
from layerdial.data.now_reading import NowReading, names_in, reading
from layerdial.data.watched import StalledRead, load_ahead
from tiny import in_child
from tiny_processes import is_running, wait_for

TWO: Reading = {"num_workers": 2, "prefetch_factor": 1}


class Files(Dataset[str]):
    """The contents of files."""

    def __getitem__(self, file: Any) -> str:
        with reading(str(file)):
            return Path(file).read_text()


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "_LOOK", 1 / 16)
    monkeypatch.setattr(watched, "_SAY", 1 / 8)
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)  # until a worker is killed at the end


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two that can be read, then two on the disk that is gone."""
    for name in "ab":
        (tmp_path / name).write_text(name)
    for name in ("gone-1", "gone-2"):
        os.mkfifo(tmp_path / name)
    return [tmp_path / name for name in ("a", "b", "gone-1", "gone-2")]


def _steady(snapshot: bytes, names: set[str]) -> bytes:
    """Return a snapshot that differs from all others until it has these names: workers begin when there is time."""
    return snapshot if set(names_in(snapshot)) == names else os.urandom(8) + b"\0"


@pytest.mark.usefixtures("looks_often")
def test_a_read_that_does_not_come_back_is_named_and_ends(
    files: list[Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = load_ahead(Files(), files, TWO, patience=0.5)
    memory, gone = batches.gi_frame.f_locals["files"], {str(file) for file in files[2:]}  # type: ignore[attr-defined]
    monkeypatch.setattr(memory, "snapshot", lambda snapshot=memory.snapshot: _steady(snapshot(), gone))
    assert [next(batches), next(batches)] == ["a", "b"]
    with caplog.at_level(logging.WARNING, "layerdial"), pytest.raises(StalledRead) as stalled:
        next(batches)
    both = f"workers wait for {files[2]}, {files[3]}"
    assert str(stalled.value) == f"no batch for 0.5 s, {both}; is the disk there? data.read_timeout is 0.5 s"
    ends = "the run ends after 0.5 s (data.read_timeout)"
    assert caplog.messages == [f"no batch for {seconds} s, {both}; {ends}" for seconds in (0.125, 0.25)]


@pytest.mark.usefixtures("looks_often")
@pytest.mark.parametrize("patience", [0.0, 600.0])
def test_a_disk_that_comes_back_costs_nothing(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    def come_back(message: str, waited: float, told: str, end: str) -> None:
        for file in files[2:] if all(str(file) in told for file in files[2:]) else ():
            handle = os.open(file, os.O_WRONLY | os.O_NONBLOCK)  # as soon as a worker has it open
            os.write(handle, b"late")
            os.close(handle)

    monkeypatch.setattr(watched._log, "warning", come_back)
    assert list(load_ahead(Files(), files, TWO, patience)) == ["a", "b", "late", "late"]


def timeouts(count: int) -> Iterator[str]:
    """Return a loader that gives a batch after torch's timeout ended so often."""
    return iter(lambda left=count * [None]: _timed_out(left), None)


def _timed_out(left: list[None]) -> str:
    if not left:
        return "batch"
    left.pop()
    raise RuntimeError("DataLoader timed out after 5.0 seconds")


def test_a_slow_disk_is_none_that_is_gone(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    files, names = NowReading(1), iter(range(1000))
    with caplog.at_level(logging.WARNING, "layerdial"), monkeypatch.context() as patched:
        patched.setattr(files, "snapshot", lambda: str(next(names)).encode())
        assert watched._next(timeouts(500), files, 600.0) == "batch" and caplog.messages == []
    with pytest.raises(StalledRead, match=r"no batch for 600 s, and no worker reads a file"):
        watched._next(timeouts(500), files, 600.0)


def test_other_errors_of_the_loader_stay_what_they_are() -> None:
    def fails() -> Iterator[str]:
        yield "a"
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    found = watched._watched(fails(), NowReading(1), 600.0)
    assert next(found) == "a"
    with pytest.raises(RuntimeError, match="killed by signal"):
        next(found)


def test_names_are_seen_by_the_first_process(monkeypatch: pytest.MonkeyPatch) -> None:
    files = NowReading(3)
    monkeypatch.setattr(now_reading, "_mine", None)
    for worker, name in ((0, "/a/ü.wav"), (2, "x" * 5000 + ".wav")):
        files.begin(worker)
        now_reading._mine[0] = 0  # type: ignore[index]
        with reading(name):
            there = names_in(files.snapshot())
        assert there[-1] == name[-1023:] and len(there) == 1
    assert names_in(files.snapshot()) == []


class Large(Dataset[str]):
    """More than a pipe holds, from a file that can be read."""

    def __getitem__(self, file: Any) -> str:
        return "x" * 1_000_000


@pytest.mark.parametrize("waiting_for", ["a disk", "the parent"])
def test_workers_end_with_a_parent_that_was_killed(files: list[Path], tmp_path: Path, waiting_for: str) -> None:
    def begin() -> None:
        batches = load_ahead(Files() if waiting_for == "a disk" else Large(), files[2:], TWO, 600.0)
        workers = batches.gi_frame.f_locals["batches"]._workers  # type: ignore[attr-defined]
        memory = batches.gi_frame.f_locals["files"]  # type: ignore[attr-defined]
        wait_for(lambda: waiting_for != "a disk" or len(names_in(memory.snapshot())) == 2)
        (tmp_path / "workers").write_text(" ".join(str(worker.pid) for worker in workers))
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(begin).code == -signal.SIGKILL
    pids = [int(word) for word in (tmp_path / "workers").read_text().split()]
    assert len(pids) == 2
    wait_for(lambda: not any(is_running(pid) for pid in pids))


class Tensors(Dataset[torch.Tensor]):
    def __getitem__(self, value: Any) -> torch.Tensor:
        return torch.full((1000,), float(value))


def test_batches_come_through_a_pipe_where_shared_memory_is_full(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = [tensor.tolist() for tensor in load_ahead(Tensors(), [1, 2, 3], TWO, 600.0)]

    def full(storage: Any) -> Any:
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)"
        )

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)
    assert [tensor.tolist() for tensor in load_ahead(Tensors(), [1, 2, 3], TWO, 600.0)] == whole
    assert whole == [[value] * 1000 for value in (1.0, 2.0, 3.0)]
    assert "Traceback" not in capfd.readouterr().err


def test_what_is_pinned_is_unpacked_first() -> None:
    made = watched._Sending(Tensors())[7]
    assert torch.equal(made.open(), torch.full((1000,), 7.0))
    assert watched._Sent(pickle.dumps("text")).pin_memory() == "text"
