"""A Ray cluster on this machine, as small as it can be."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from layerdial.runtime.cluster import SETTINGS
from tiny_processes import wait_for


@contextmanager
def two_workers() -> Iterator[None]:
    """A cluster with two CPUs, ended at last."""
    import ray

    os.environ.update(SETTINGS)
    ray.init(
        num_cpus=2,
        object_store_memory=100 * 2**20,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()


def processes(name: str) -> list[int]:
    """The processes of this process' cluster that Ray calls so."""
    found = list[int]()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if name.encode() in (folder / "cmdline").read_bytes() and os.getpid() in _ancestors(folder):
                found.append(int(folder.name))
    return found


def _ancestors(folder: Path) -> list[int]:
    parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    return [parent] if parent <= 1 else [parent, *_ancestors(Path("/proc") / str(parent))]


def runs_long(begun: Path, saved: Path) -> None:
    """A job that saves what it has where it is interrupted."""
    begun.touch()
    try:
        wait_for(lambda: False)
    except KeyboardInterrupt:
        saved.touch()
        raise


def waits_for(file: Path) -> None:
    """A job that another one allows to end."""
    wait_for(file.exists)
