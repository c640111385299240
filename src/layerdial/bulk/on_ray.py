"""Processes of a Ray cluster that answer files."""

from __future__ import annotations

import os
from typing import Any

from layerdial.bulk.answers import Answer, answer_file
from layerdial.bulk.child import GONE, NOT_STARTED, Load, warmed
from layerdial.errors import UserError
from layerdial.request import Request


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
        self._recognizer = warmed(load)

    def pid(self) -> int:
        """Return the number of the process, once the model is loaded."""
        return os.getpid()

    def answer(self, file: str, request: Request) -> Answer:
        """Return the answer to a file."""
        return answer_file(self._recognizer, file, request)
