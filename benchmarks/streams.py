"""How many streams one core keeps up with at real time, by depth and size of chunks, against the ratio of compute.

    layerdial export MODEL OUT --streaming
    python benchmarks/streams.py OUT [--chunks 80 320 1280] [--batches 1 8]

One thread. Depths and sizes take turns. What counts is the thread's CPU time, which other load hardly changes; medians
are printed. The compute of a depth is its multiply-accumulates a second, as counted at export.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from layerdial.ladder import depths_of
from layerdial.recognition.chunk_model import ChunkModel
from layerdial.runtime import Recognizer
from layerdial.subset import BlockSubset

_WARM_CHUNKS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder that layerdial export --streaming wrote")
    parser.add_argument("--chunks", type=int, nargs="+", default=[80, 160, 320, 640, 1280], help="milliseconds")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="streams in a chunk")
    parser.add_argument("--turns", type=int, default=31)
    arguments = parser.parse_args()
    recognizer = Recognizer(arguments.model, threads=1)
    depths = depths_of(recognizer.ladder, recognizer.n_blocks)
    cases: list[tuple[int, int, int]] = list(product(arguments.batches, arguments.chunks, depths))
    model = recognizer.chunk_model()
    runs = [chunks_of(model, recognizer.subset(depth), batch, chunk_ms) for batch, chunk_ms, depth in cases]
    measured = cpu_ms_in_turns(runs, arguments.turns)
    found = dict(zip(cases, measured, strict=True))
    macs = {depth: recognizer.cost(recognizer.subset(depth)).macs_per_second for depth in depths}
    for batch in arguments.batches:
        print(f"\nchunks of {batch} stream{'s' if batch > 1 else ''}; streams a core at real time\n")
        print(table(found, batch, arguments.chunks, depths, macs))


def chunks_of(model: ChunkModel, subset: BlockSubset, streams: int, chunk_ms: int) -> Callable[[], object]:
    """Return a function that runs the next chunk of some streams, which have been going on for a while."""
    inputs = chunk_ms * model.features.per_second // 1000
    x_BTF = np.random.default_rng(0).standard_normal((streams, inputs, 80)).astype(np.float32)
    lengths_B = np.full(streams, inputs)
    caches = model.begin(streams)
    for _ in range(_WARM_CHUNKS):
        _, caches = model.step(x_BTF, lengths_B, subset, caches)

    def run() -> None:
        nonlocal caches
        _, caches = model.step(x_BTF, lengths_B, subset, caches)

    return run


def cpu_ms_in_turns(runs: Sequence[Callable[[], object]], turns: int) -> list[float]:
    """Return the median CPU milliseconds of each run; all take turns, in another order each time."""
    times: list[list[float]] = [[] for _ in runs]
    order, rng = list(range(len(runs))), random.Random(0)
    for _ in range(turns):
        rng.shuffle(order)
        for i in order:
            start = time.thread_time()
            runs[i]()
            times[i].append(1000 * (time.thread_time() - start))
    return [statistics.median(found) for found in times]


def table(
    found: dict[tuple[int, int, int], float],
    batch: int,
    chunks: Sequence[int],
    depths: Sequence[int],
    macs: dict[int, float],
) -> str:
    """Return a row for each depth; the last one has the shallowest over the deepest, beside that of their compute."""
    streams = {(chunk, depth): batch * chunk / found[batch, chunk, depth] for chunk in chunks for depth in depths}
    lines = ["| depth | MMAC a second | " + " | ".join(f"{chunk} ms" for chunk in chunks) + " |"]
    lines.append("|---" * (2 + len(chunks)) + "|")
    for depth in depths:
        numbers = " | ".join(f"{streams[chunk, depth]:.0f}" for chunk in chunks)
        lines.append(f"| {depth} | {macs[depth] / 1e6:.1f} | {numbers} |")
    first, last = depths[0], depths[-1]
    ratios = " | ".join(f"{streams[chunk, first] / streams[chunk, last]:.2f}" for chunk in chunks)
    lines.append(f"| {first} over {last} | {macs[last] / macs[first]:.2f} | {ratios} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
