"""The requests of `serving.py` in real time, with a real pool over a real model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layerdial.runtime import Recognizer
from layerdial.runtime.controller import DepthController
from layerdial.serving.jobs import Job, Refused, Served
from layerdial.serving.pool import Pool
from layerdial.serving.scheduler import QueueScheduler
from serving_clock import Arrival, Outcome, Utterance

Decide = Callable[[DepthController, int], QueueScheduler]


class DecidedPool(Pool):
    """A pool whose queue is of another kind."""

    def __init__(self, recognizer: Recognizer, workers: int, decide: Decide, least: int) -> None:
        super().__init__(recognizer, workers, min_depth=least)
        self._queue = decide(recognizer.controller, workers)


def live(
    folder: Path,
    utterances: Sequence[Utterance],
    samples: Sequence[NDArray[np.float32]],
    requests: Sequence[Arrival],
    workers: int,
    decide: Decide,
    least: int,
) -> list[Outcome]:
    """Submit requests at their times; return what became of each when all are done."""
    audio = {id(one): some for one, some in zip(utterances, samples, strict=True)}
    recognizer = Recognizer(folder, 1)
    recognizer.warm_up()
    outcomes = dict[int, Outcome]()
    with DecidedPool(recognizer, workers, decide, least) as pool:
        begin = time.perf_counter()
        for number, arrival in enumerate(requests):
            time.sleep(max(0.0, begin + arrival.at - time.perf_counter()))
            job = Job(audio[id(arrival.utterance)], deadline_ms=1000.0 * arrival.deadline_s)
            try:
                future = pool.submit(job)
            except Refused:
                outcomes[number] = Outcome(arrival, None)
            else:
                future.add_done_callback(partial(note, outcomes, number, arrival))
    return [outcomes[number] for number in range(len(requests))]


def note(outcomes: dict[int, Outcome], number: int, arrival: Arrival, future: Future[Served]) -> None:
    served = future.result()
    outcomes[number] = Outcome(arrival, served.depth, served.took_ms / 1000.0)
