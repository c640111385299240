"""Threads over one session, or processes with one each: answers a second, and memory.

    python benchmarks/serving_workers.py EXPORTED CUTS [--workers 2] [--rounds 5]

Both answer the same utterances at full depth, in turns, so that other load on the machine affects both alike. Samples
go to a process through a pipe, as those of a server would. Memory is the proportional set size after the last round,
which counts pages that processes share once.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE
from layerdial.runtime import Recognizer

Samples = NDArray[np.float32]
BATCH = 4
_HERE: list[Recognizer] = []  # the recogniser of a process


def load(folder: Path) -> None:
    _HERE.append(Recognizer(folder, 1))


def answer(samples: Samples) -> str:
    return _HERE[0].transcribe(samples).text


def batches(speech: list[Samples]) -> list[list[Samples]]:
    """Return the utterances in batches of similar length, which have the least padding."""
    ordered = sorted(speech, key=len)
    return [ordered[start : start + BATCH] for start in range(0, len(ordered), BATCH)]


def memory_mb(pid: int) -> float:
    """Return the proportional set size of a process."""
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else float("nan")


def memory_of_recognizer(folders: list[Path], longest: Samples, queue: multiprocessing.Queue[float]) -> None:
    """Put into `queue` the memory of a process that has transcribed with each of some models."""
    recognizers = [Recognizer(folder, 1) for folder in folders]
    for recognizer in recognizers:
        recognizer.transcribe(longest)
    queue.put(memory_mb(os.getpid()))


def fresh_memory(folders: list[Path], longest: Samples) -> float:
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[float] = context.Queue()
    process = context.Process(target=memory_of_recognizer, args=(folders, longest, queue))
    process.start()
    found = queue.get()
    process.join()
    return found


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    from serving_speech import spoken

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("cuts", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--utterances", type=int, default=20)
    options = parser.parse_args()
    speech = [samples for samples, _ in spoken(options.cuts, (2.0, 20.0), options.utterances)]
    longest = max(speech, key=len)
    load(options.model)
    context = multiprocessing.get_context("spawn")
    with (
        ThreadPoolExecutor(options.workers) as threads,
        ProcessPoolExecutor(options.workers, context, load, (options.model,)) as processes,
    ):
        runs: dict[str, Callable[[], object]] = {
            "one thread": lambda: [answer(samples) for samples in speech],
            f"one thread, batches of {BATCH}": lambda: list(map(_HERE[0].transcribe_batch, batches(speech))),
            f"{options.workers} threads": lambda: list(threads.map(answer, speech)),
            f"{options.workers} processes": lambda: list(processes.map(answer, speech)),
        }
        for run in runs.values():
            run()
        took = {name: list[float]() for name in runs}
        for _ in range(options.rounds):
            for name, run in runs.items():
                took[name].append(timed(run))
        of_processes = sum(map(memory_mb, processes._processes))
    one, two = (fresh_memory([options.model] * count, longest) for count in (1, 2))
    memory = dict(zip(runs, (one, one, one, of_processes), strict=True))
    print("| workers | answers/s, median | of one thread | memory, MB |\n|---|---|---|---|")
    for name, some in took.items():
        share = statistics.median(a / b for a, b in zip(took["one thread"], some, strict=True))
        print(f"| {name} | {len(speech) / statistics.median(some):.2f} | {share:.2f} | {memory[name]:.0f} |")
    print(f"two models in one process, as for switching: {two:.0f} MB")
    print(f"{len(speech)} utterances, the longest of {len(longest) / SAMPLE_RATE:.1f} s")


if __name__ == "__main__":
    main()
