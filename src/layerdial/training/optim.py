"""AdamW and learning rates that are a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from layerdial.config import OptimConfig


def make_optimizer(network: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Weight decay for matrices and kernels; none for biases and norms. Blocks without gradient are left alone."""
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The rate of the update from step to step + 1: a linear warm-up, then Noam's or a cosine's fall."""
    warmup = min(1.0, (step + 1) / config.warmup_steps)
    if config.schedule == "noam":
        return config.lr * min(warmup, math.sqrt(config.warmup_steps / (step + 1)))
    done = min(1.0, max(0, step + 1 - config.warmup_steps) / max(1, steps - config.warmup_steps))
    cosine = 0.5 * (1.0 + math.cos(math.pi * done))
    return config.lr * warmup * (config.final_lr_share + (1.0 - config.final_lr_share) * cosine)
