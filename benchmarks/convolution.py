"""Depthwise convolution over time: torch's one-dimensional kernel against ours, forward and backward.

    python benchmarks/convolution.py [--threads 1]

Ours (`layerdial.modules.subsampling.conv_over_time`) is the same convolution in the layout (B, T, C).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from layerdial.modules.subsampling import conv_over_time
from layerdial.timing import measure_in_turns

SHAPES = {"xs, 30 s as 7 utterances": (7, 107, 96, 15), "paper, 10 s": (1, 250, 256, 31)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    for name, (batch, frames, width, kernel) in SHAPES.items():
        conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        x_BTC = torch.randn(batch, frames, width, requires_grad=True)

        def run(convolve: Callable[[Tensor], Tensor], x_BTC: Tensor = x_BTC) -> None:
            convolve(x_BTC).sum().backward()

        plain, ours = measure_in_turns(
            [
                lambda conv=conv, run=run: run(lambda x: conv(x.transpose(1, 2)).transpose(1, 2)),
                lambda conv=conv, run=run: run(lambda x: conv_over_time(conv, x)),
            ],
            3,
            31,
        )
        print(f"{name}: ours takes {ours / plain:.2f} of the time of conv1d")


if __name__ == "__main__":
    main()
