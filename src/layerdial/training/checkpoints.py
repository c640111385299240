"""Training checkpoints: everything a run needs to go on as if it had never stopped.

`checkpoints/step-00000500/` holds model.safetensors, optimizer.safetensors and state.json, written in one step.
Random numbers are drawn from (seed, step), so no generator needs storing.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerdial.data.batching import Position
from layerdial.models.tensors import load_tensors, save_tensors
from layerdial.utils.files import recover, replacing, write_json
from layerdial.utils.records import parsing, read_record

_REMEDY = "remove this checkpoint, and the run goes on from the one before"


@dataclass
class TrainState:
    """How far a run has come: updates made, the next batch, the dev score of each kept checkpoint (lower is better).

    `train_seconds` is wall time of training alone, without evaluations, over all restarts.
    """

    step: int = 0
    position: Position = field(default_factory=Position)
    audio_seconds: float = 0.0
    train_seconds: float = 0.0
    scores: dict[int, float] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)


def save(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, progress: TrainState) -> None:
    """Write one checkpoint folder; a kill or a full disk leaves the earlier ones as they were."""
    with replacing(folder / _name(progress.step)) as temporary:
        temporary.mkdir(parents=True)
        save_tensors(temporary / "model.safetensors", network.state_dict())
        save_tensors(temporary / "optimizer.safetensors", _flatten(network, optimizer))
        write_json(temporary / "state.json", asdict(progress))


def save_progress(folder: Path, progress: TrainState) -> None:
    """Write what is known by now into the checkpoint of this step: its dev score."""
    write_json(folder / _name(progress.step) / "state.json", asdict(progress))


def prune(folder: Path, progress: TrainState, keep_best: int) -> None:
    """Keep the newest checkpoint whole and the weights of the best; forget the rest, and what a kill left half done."""
    best = best_steps(progress, keep_best)
    for step in [s for s in progress.scores if s not in best and s != progress.step]:
        del progress.scores[step]
    for other in _stored(folder):
        step = step_of(other)
        if step == progress.step:
            continue
        if step in best:
            (other / "optimizer.safetensors").unlink(missing_ok=True)
        else:
            shutil.rmtree(other, ignore_errors=True)
    for half in folder.glob(".step-*"):
        shutil.rmtree(half, ignore_errors=True)


def best_steps(progress: TrainState, count: int) -> list[int]:
    """The steps with the lowest dev scores; of equals the later."""
    return sorted(progress.scores, key=lambda step: (progress.scores[step], -step))[:count]


def latest(folder: Path) -> Path | None:
    """The newest checkpoint that training can go on from."""
    whole = [path for path in _stored(folder) if (path / "optimizer.safetensors").is_file()]
    return max(whole, key=step_of, default=None)


def any_stored(folder: Path) -> bool:
    """Whether there is a checkpoint, were it only for its weights."""
    return bool(_stored(folder))


def put_back(folder: Path) -> None:
    """Give checkpoints that a kill left aside while they were replaced their names again."""
    for old in folder.glob(".step-*.old"):
        recover(old.with_name(old.name.removeprefix(".").removesuffix(".old")))


def _stored(folder: Path) -> list[Path]:
    return [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdecimal()]


def load(checkpoint: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> TrainState:
    """Put weights and optimizer state back; returns how far the run had come."""
    device = next(network.parameters()).device
    weights = {name: tensor.to(device) for name, tensor in load_tensors(checkpoint / "model.safetensors").items()}
    network.load_state_dict(weights)
    _unflatten(network, optimizer, load_tensors(checkpoint / "optimizer.safetensors"))
    state = read_record(checkpoint / "state.json", _REMEDY)
    there = {step_of(path) for path in _stored(checkpoint.parent)}  # some were pruned after this was written
    with parsing(checkpoint / "state.json", _REMEDY):
        state["position"] = Position(**state["position"])
        state["scores"] = {int(step): float(score) for step, score in state["scores"].items() if int(step) in there}
        return TrainState(**state)


def average_weights(folder: Path, steps: list[int], network: nn.Module) -> None:
    """Give `network` the mean of the weights of several checkpoints."""
    total: dict[str, Tensor] = {}
    for step in steps:
        for name, tensor in load_tensors(folder / _name(step) / "model.safetensors").items():
            total[name] = total.get(name, torch.zeros_like(tensor)) + tensor / len(steps)
    network.load_state_dict(total)


def _flatten(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def _unflatten(network: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = dict(network.named_parameters())
    # AdamW keeps its step counter on the CPU, unless it is fused
    moves_step = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    for name, tensor in tensors.items():
        parameter_name, _, key = name.rpartition("/")
        parameter = parameters[parameter_name]
        stays = key == "step" and not moves_step
        optimizer.state[parameter][key] = tensor if stays else tensor.to(parameter.device)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def step_of(path: Path) -> int:
    """Return the step of a checkpoint folder."""
    return int(path.name.removeprefix("step-"))
