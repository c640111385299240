"""Processes of a Ray cluster that answer files, and the cluster itself: that of RAY_ADDRESS, or one on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from layerdial.bulk.answers import Answer, answer_file
from layerdial.bulk.child import GONE, NOT_STARTED, Load
from layerdial.errors import UserError, needing
from layerdial.request import Request
from layerdial.runtime.session import usable_cpus

_STORE_BYTES = 100 * 2**20  # of a cluster that is started here: what is sent is names of files, and texts


@contextmanager
def cluster() -> Iterator[int]:
    """Yield the number of CPUs of a cluster: the one that this process uses, that of RAY_ADDRESS, or a new one here.

    What was started here ends with the context. Raises `UserError` where ray is missing or the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    with needing("ray", "--ray needs"):
        import ray
    if ray.is_initialized():
        yield _cpus()
        return
    here = {"num_cpus": usable_cpus(), "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    address = os.environ.get("RAY_ADDRESS")
    try:
        ray.init(**({"address": address} if address else here), logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"the Ray cluster {address or 'of this machine'} does not start or answer: {error}") from None
    try:
        yield _cpus()
    finally:
        ray.shutdown()


def _cpus() -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


class RemoteChild:
    """A process of the cluster that has the model, for one thread; a new one follows where it died."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._actor: Any = None
        self.pid = 0

    def start(self) -> None:
        """Start the process and load the model, when the cluster has a CPU for it."""
        if self._actor is not None:
            return
        import ray

        actor = ray.remote(num_cpus=1, max_restarts=0)(_Model).remote(self._load)
        try:
            self.pid = ray.get(actor.pid.remote())
        except ray.exceptions.RayError:
            raise UserError(f"{NOT_STARTED}; layerdial and the model must be on all machines") from None
        self._actor = actor

    def answer(self, file: str, request: Request) -> Answer:
        """Return the answer to a file; the end of a process or machine is an error that may pass."""
        import ray

        self.start()
        try:
            answer: Answer = ray.get(self._actor.answer.remote(file, request))
            return answer
        except ray.exceptions.RayError:
            self.close()
            return GONE

    def close(self) -> None:
        """End the process, which has nothing to do."""
        self.kill()

    def kill(self) -> None:
        """End the process at once."""
        import ray

        actor, self._actor, self.pid = self._actor, None, 0
        if actor is not None and ray.is_initialized():
            ray.kill(actor)


class _Model:
    """The model in a process of the cluster."""

    def __init__(self, load: Load) -> None:
        self._recognizer = load()

    def pid(self) -> int:
        """Return the number of the process, once the model is loaded."""
        return os.getpid()

    def answer(self, file: str, request: Request) -> Answer:
        """Return the answer to a file."""
        return answer_file(self._recognizer, file, request)
