"""Depthwise convolution over time: torch's one-dimensional kernel against ours, forward and backward.

    python benchmarks/convolution.py [--threads 1]

Ours (`layerdial.modules.subsampling.conv_over_time`) is the same convolution in the layout (B, T, C).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from layerdial.modules.subsampling import conv_over_time
from layerdial.utils.timing import measure_in_turns

SHAPES = {"xs, 30 s as 7 utterances": (7, 107, 96, 15), "paper, 10 s": (1, 250, 256, 31)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    for name, (batch, frames, width, kernel) in SHAPES.items():
        conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        x_BTC = torch.randn(batch, frames, width, requires_grad=True)

        runs = [partial(run, partial(convolve, conv), x_BTC) for convolve in (conv1d, conv_over_time)]
        plain, ours = measure_in_turns(runs, 3, 31)
        print(f"{name}: ours takes {ours / plain:.2f} of the time of conv1d")


def conv1d(conv: nn.Conv1d, x_BTC: Tensor) -> Tensor:
    """As torch means it to be called: channels before time."""
    y_BCT: Tensor = conv(x_BTC.transpose(1, 2))
    return y_BCT.transpose(1, 2)


def run(convolve: Callable[[Tensor], Tensor], x_BTC: Tensor) -> None:
    """Forward and backward."""
    torch.autograd.backward(convolve(x_BTC).sum())


if __name__ == "__main__":
    main()
