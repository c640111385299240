"""AdamW and learning rates that are a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from layerdial.config import OptimConfig
from layerdial.models.network import Network


def make_optimizer(network: Network, config: OptimConfig) -> torch.optim.AdamW:
    """Weight decay for matrices and kernels, none for biases and norms; `lr_scale` is `head_lr` over `lr` in the head.

    Frozen parameters are left out. Blocks that get no gradient in a step are left alone by it.
    """
    head_scale = (config.head_lr or config.lr) / config.lr
    head = set(network.head.parameters())
    groups = [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale, "lr": config.lr * scale}
        for scale, part in ((1.0, [p for p in network.parameters() if p not in head]), (head_scale, list(head)))
        for decay, parameters in ((config.weight_decay, _matrices(part)), (0.0, _vectors(part)))
        if parameters
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def _matrices(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    return [p for p in parameters if p.requires_grad and p.ndim >= 2]


def _vectors(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    return [p for p in parameters if p.requires_grad and p.ndim < 2]


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The rate of the update from step to step + 1: a linear warm-up, then Noam's or a cosine's fall."""
    warmup = min(1.0, (step + 1) / config.warmup_steps)
    if config.schedule == "noam":
        return config.lr * min(warmup, math.sqrt(config.warmup_steps / (step + 1)))
    done = min(1.0, max(0, step + 1 - config.warmup_steps) / max(1, steps - config.warmup_steps))
    cosine = 0.5 * (1.0 + math.cos(math.pi * done))
    return config.lr * warmup * (config.final_lr_share + (1.0 - config.final_lr_share) * cosine)
