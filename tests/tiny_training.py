"""What the tests of training share: a batch, a run that kills itself, and two processes that train together."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState

from layerdial.config.recipe import OptimConfig, Recipe
from layerdial.data.batching import Batch
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.subset import BlockSubset
from layerdial.training import loop, update
from layerdial.training.loop import train
from layerdial.training.objective import NetworkInputs
from tiny import Ended, in_child, noise

SECONDS = 120  # until a deadlock is one


def spoken(network: ConformerCTC) -> tuple[Batch, NetworkInputs]:
    """Two utterances of noise with two labels each."""
    inputs, lengths_B = noise([61, 40])
    tokens = torch.tensor([[1, 2], [3, 1]])
    batch = Batch(("a", "b"), inputs, lengths_B, tokens, torch.tensor([2, 2]), 1.0, 0, 0, ())
    return batch, NetworkInputs(inputs, inputs, lengths_B, network.features.frames(lengths_B))


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_step(step: int) -> None:
    """From now on, this process kills itself in the middle of that step."""
    rate = update.learning_rate

    def deadly(config: OptimConfig, now: int, steps: int) -> float:
        if now == step:
            kill()
        return rate(config, now, steps)

    update.learning_rate = deadly  # type: ignore[assignment]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def on_two_ranks(action: Callable[[int], object]) -> list[Ended]:
    """Run `action(rank)` in two forks that find each other as those of torchrun do; a deadlock ends by SIGALRM."""
    port = str(free_port())

    def as_rank(rank: int) -> Ended:
        def run() -> None:
            signal.alarm(SECONDS)
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", ACCELERATE_USE_CPU="true")
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
            AcceleratorState._reset_state(reset_partial_state=True)
            action(rank)

        return in_child(run)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(as_rank, range(2)))


def train_and_tell(recipe: Recipe, rank: int, resume: bool = False) -> None:
    """Train, and print what this rank drew, heard and ended with. The second rank cannot write any file."""
    seen: dict[str, list[Any]] = {"subsets": [], "ids": []}
    terms_of, finish = update.loss_terms, loop._finish

    def listening(student: torch.nn.Module, batch: Any, heard: Any, subset: BlockSubset, *rest: Any):
        seen["subsets"].append(subset.key)
        seen["ids"].append([batch.epoch, *batch.ids])
        return terms_of(student, batch, heard, subset, *rest)

    def telling(run: Any) -> Path:
        hashed = hashlib.sha256()
        for tensor in run.network.state_dict().values():
            hashed.update(tensor.numpy().tobytes())
        print(json.dumps({**seen, "weights": hashed.hexdigest(), "processes": run.accelerator.num_processes}))
        return finish(run)

    update.loss_terms, loop._finish = listening, telling
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    train(recipe, resume)


def told(ended: list[Ended]) -> list[dict[str, Any]]:
    assert [e.code for e in ended] == [0, 0], "\n".join(e.err for e in ended)
    return [json.loads(e.out.splitlines()[0]) for e in ended]
