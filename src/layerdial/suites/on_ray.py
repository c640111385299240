"""Jobs as tasks of a Ray cluster, whose machines share the folder that the suite is run in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from layerdial.utils.workers import SECONDS_TO_SAVE, Failure, Job, do_job

RETRIES = 3
"""So often is a job begun again whose process or machine died; it goes on from what it has written."""


class RayTasks:
    """Tasks of the cluster that this process uses, `size` at a time, each with a CPU and a GPU if there are some."""

    def __init__(self, size: int, threads: int | None) -> None:
        self._size, self._threads = size, threads
        self._jobs = dict[Any, Job]()  # by what Ray calls the result

    @property
    def running(self) -> list[Job]:
        """The jobs that have been started and have not ended."""
        return list(self._jobs.values())

    @property
    def full(self) -> bool:
        """Whether as many jobs as there may be are running."""
        return len(self._jobs) >= self._size

    def start(self, job: Job) -> None:
        """Have the cluster do a job, when it has a CPU for it."""
        import ray

        task = ray.remote(_do).options(
            name=job.name, num_cpus=1, num_gpus=min(1, gpus()), max_retries=RETRIES, retry_exceptions=False
        )
        self._jobs[task.remote(job, self._threads, Path.cwd())] = job

    def wait(self, seconds: float) -> list[tuple[Job, Failure | None]]:
        """Return the jobs that ended within some seconds, as soon as one does."""
        import ray

        ended, _ = ray.wait(list(self._jobs), timeout=seconds)
        return [(job := self._jobs.pop(result), _failure(job, result)) for result in ended]

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Interrupt what still runs at the exit of the context; it has some seconds to save what it has."""
        import ray

        try:
            yield
        finally:
            left = list(self._jobs)
            if left and ray.is_initialized():
                for result in left:
                    ray.cancel(result)
                _, late = ray.wait(left, num_returns=len(left), timeout=SECONDS_TO_SAVE)
                for result in late:
                    ray.cancel(result, force=True)


def gpus() -> int:
    """Return how many GPUs the cluster has."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def _failure(job: Job, result: Any) -> Failure | None:
    """Return why a job failed; None where it did not."""
    import ray

    try:
        message, users_mistake = ray.get(result)
    except ray.exceptions.RayError as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        return Failure(job, f"its process on the cluster ended, {RETRIES + 1} times: {said[0]}; see {job.log}")
    return None if message is None else Failure(job, message, users_mistake)


def _do(job: Job, threads: int | None, folder: Path) -> tuple[str | None, bool]:
    """Do a job in a process of the cluster. Return the reason of a failure or None, and whether the user caused it."""
    try:
        os.chdir(folder)
    except OSError as error:
        return f"{folder} is not on this machine of the cluster ({error.strerror}); share it between all", True
    if threads:
        import torch

        torch.set_num_threads(threads)
    with suppress(KeyboardInterrupt):  # cancelled: what it has is saved, and nobody waits for more
        return do_job(job)
    return "interrupted", True
