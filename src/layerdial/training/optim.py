"""AdamW and learning rates that are a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from layerdial.config.recipe import OptimConfig
from layerdial.models.network import Network

_BETAS = (0.9, 0.98)  # those of the Transformer (Vaswani et al. 2017)
_FINAL_SHARE = 0.01  # of the peak rate, where the cosine ends


def make_optimizer(network: Network, config: OptimConfig) -> torch.optim.AdamW:
    """Weight decay for matrices and kernels, none for biases, norms and scales; the head has a rate of its own.

    `lr_scale` in a group is `head_lr` over `lr` for the head, else 1.

    Frozen parameters are left out. Blocks that get no gradient in a step are left alone by it.
    """
    head_scale = (config.head_lr or config.lr) / config.lr
    head = set(network.head.parameters())
    members: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            scale = head_scale if parameter in head else 1.0
            members.setdefault((scale, config.weight_decay if _decays(name, parameter) else 0.0), []).append(parameter)
    groups = [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale, "lr": config.lr * scale}
        for (scale, decay), parameters in members.items()
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=_BETAS, fused=True)


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """More than one dimension in use, and no bias by name: Parakeet has biases for each head and channel."""
    return sum(size > 1 for size in parameter.shape) >= 2 and "bias" not in name.rsplit(".", 1)[-1]


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The rate of the update from step to step + 1: a linear warm-up, then Noam's or a cosine's fall."""
    warmup = min(1.0, (step + 1) / config.warmup_steps)
    if config.schedule == "noam":
        return config.lr * min(warmup, math.sqrt(config.warmup_steps / (step + 1)))
    done = min(1.0, max(0, step + 1 - config.warmup_steps) / max(1, steps - config.warmup_steps))
    cosine = 0.5 * (1.0 + math.cos(math.pi * done))
    return config.lr * warmup * (_FINAL_SHARE + (1.0 - _FINAL_SHARE) * cosine)
