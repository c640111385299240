"""Skip efficiency: latency at n blocks over latency at N, against n/N.

    python benchmarks/latency.py [--size xs s paper] [--seconds 10] [--threads 1] [--onnx] [--clock cpu] [--outside]

With --onnx, the exported graph in float32 and int8 beside torch. One utterance, network alone (front end, kept blocks,
head), random weights: time does not depend on them. All depths take turns. The aim is to be within 5 points of n/N at
every depth. `--clock cpu` counts CPU time, for a machine that does other things. `--outside` prints what takes the time
of the exported graphs that no depth saves, by ONNX Runtime's own profile.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from layerdial.config.network import ConformerConfig
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.models.cost import forward_pass, macs_per_second
from layerdial.subset import BlockSubset
from turns import CLOCKS, Run, in_turns

PROFILED = 30  # runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", default=["xs", "s", "paper"])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--onnx", action="store_true")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--outside", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for size in options.size:
        network = ConformerCTC(ConformerConfig.model_validate({"size": size}), 256).eval()
        subsets = [BlockSubset.even(network.n_blocks, depth) for depth in range(1, network.n_blocks + 1)]
        runs: dict[str, list[Run]] = {
            "torch": [forward_pass(network, s, *network.example_inputs(options.seconds)) for s in subsets]
        }
        graphs = exported_graphs(network) if options.onnx or options.outside else {}
        if options.outside:
            for name, graph in graphs.items():
                print(f"{size}, {name}, outside of the blocks:", json.dumps(outside(graph, network, options)))
            continue
        runs |= {name: exported_runs(graph, network, subsets, options) for name, graph in graphs.items()}
        with torch.inference_mode():
            flat = {f"{name} {i}": run for name, row in runs.items() for i, run in enumerate(row)}
            measured = in_turns(flat, options.repeats, CLOCKS[options.clock])
        times = {name: [measured[f"{name} {i}"] for i in range(len(row))] for name, row in runs.items()}
        print(f"\n{size}: {network.n_blocks} blocks, {options.threads} thread(s), {options.seconds:g} s of audio")
        full_macs = macs_per_second(network, subsets[-1])
        macs = [macs_per_second(network, subset) / full_macs for subset in subsets]
        for name, row in times.items():
            print(f"{name}: {times['torch'][-1] / row[-1]:.2f} times as fast as torch at full depth")
            describe(size, name, subsets, row, macs)


def describe(
    size: str, name: str, subsets: Sequence[BlockSubset], times: Sequence[float], macs: Sequence[float]
) -> None:
    """A line a depth, and the largest distance from n/N."""
    print("depth   n/N  latency  difference     MACs")
    worst = 0.0
    for subset, time_ms, share_of_macs in zip(subsets, times, macs, strict=True):
        share, latency = subset.depth / subset.n_blocks, time_ms / times[-1]
        worst = max(worst, abs(latency - share))
        print(f"{subset.depth:5} {share:5.3f}    {latency:5.3f}      {latency - share:+.3f}    {share_of_macs:5.3f}")
    print(json.dumps({"size": size, "by": name, "worst_difference_from_n_over_N": round(worst, 3)}))


def exported_graphs(network: ConformerCTC) -> dict[str, bytes]:
    """Return the exported graph in float32 and in int8."""
    import onnx_ir

    from layerdial.export.graph import to_onnx
    from layerdial.export.precision import to_int8

    model = to_onnx(network)
    graphs = {"float32": model, "int8": to_int8(model)}
    for graph in graphs.values():
        graph.ir_version = 11
    return {name: onnx_ir.to_proto(graph).SerializeToString() for name, graph in graphs.items()}


def opened(graph: bytes, threads: int, profile: Path | None = None) -> Any:
    """Return the graph in ONNX Runtime, which writes a profile if a name for it is given."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def feed_of(network: ConformerCTC, subset: BlockSubset, seconds: float) -> dict[str, Any]:
    inputs, lengths_B = (tensor.numpy() for tensor in network.example_inputs(seconds))
    return {"x": inputs, "x_lens": lengths_B, "gates": np.array([i in subset for i in range(subset.n_blocks)])}


def exported_runs(
    graph: bytes, network: ConformerCTC, subsets: Sequence[BlockSubset], options: argparse.Namespace
) -> list[Run]:
    """Return a run of the exported graph for each subset."""
    session = opened(graph, options.threads)
    return [partial(session.run, None, feed_of(network, subset, options.seconds)) for subset in subsets]


def outside(graph: bytes, network: ConformerCTC, options: argparse.Namespace) -> dict[str, float]:
    """Return milliseconds by kind of node outside of the one block that runs; `If` are the choices that skip others.

    Each node counts with its median over runs.
    """
    with TemporaryDirectory() as folder:
        session = opened(graph, options.threads, Path(folder) / "profile")
        feed = feed_of(network, BlockSubset.even(network.n_blocks, 1), options.seconds)
        for _ in range(PROFILED):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event for event in events if event["cat"] == "Node" and event["name"].endswith("_kernel_time")]
    choices = sorted((event["ts"], event["dur"]) for event in nodes if event["args"]["op_name"] == "If")
    by_node: dict[tuple[str, str], list[float]] = {}
    for event in nodes:
        start, taken = choices[max(0, bisect_right(choices, (event["ts"], math.inf)) - 1)]
        if event["args"]["op_name"] == "If" or not start <= event["ts"] < start + taken:
            by_node.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"] / 1000)
    kinds: dict[str, float] = {}
    for (kind, _), times in by_node.items():
        kinds[kind] = kinds.get(kind, 0.0) + statistics.median(times)
    kinds["If"] -= max(statistics.median(times) for (kind, _), times in by_node.items() if kind == "If")
    largest = sorted(kinds.items(), key=lambda item: -item[1])[:10]
    return {kind: round(ms, 3) for kind, ms in [("all", sum(kinds.values())), *largest]}


if __name__ == "__main__":
    main()
