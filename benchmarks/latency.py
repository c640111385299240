"""Skip efficiency: latency at n blocks over latency at N, against n/N.

    python benchmarks/latency.py [--size xs s paper] [--seconds 10] [--threads 1] [--onnx]

With --onnx, the exported graph in float32 and int8 beside torch. One utterance, network alone (front end, kept blocks,
head), random weights: time does not depend on them. All depths
take turns. The aim is to be within 5 points of n/N at every depth.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from layerdial.config.network import ConformerConfig
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.models.cost import forward_pass, macs_per_second
from layerdial.subset import BlockSubset
from layerdial.utils.timing import measure_in_turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", default=["xs", "s", "paper"])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--onnx", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for size in options.size:
        network = ConformerCTC(ConformerConfig.model_validate({"size": size}), 256).eval()
        subsets = [BlockSubset.even(network.n_blocks, depth) for depth in range(1, network.n_blocks + 1)]
        runs: dict[str, list[Callable[[], object]]] = {
            "torch": [forward_pass(network, s, *network.example_inputs(options.seconds)) for s in subsets]
        }
        if options.onnx:
            runs |= exported_runs(network, subsets, options.seconds, options.threads)
        with torch.inference_mode():
            flat = measure_in_turns([run for row in runs.values() for run in row], 2, options.repeats, 240.0)
        times = {name: flat[i * len(subsets) : (i + 1) * len(subsets)] for i, name in enumerate(runs)}
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


def exported_runs(
    network: ConformerCTC, subsets: Sequence[BlockSubset], seconds: float, threads: int
) -> dict[str, list[Callable[[], object]]]:
    """Runs of the exported graph, in float32 and in int8."""
    import onnx_ir
    import onnxruntime

    from layerdial.export.graph import to_onnx
    from layerdial.export.precision import to_int8

    model = to_onnx(network)
    inputs, lengths_B = (tensor.numpy() for tensor in network.example_inputs(seconds))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    found: dict[str, list[Callable[[], object]]] = {}
    for name, graph in (("float32", model), ("int8", to_int8(model))):
        graph.ir_version = 11
        made = onnx_ir.to_proto(graph).SerializeToString()
        session = onnxruntime.InferenceSession(made, options, providers=["CPUExecutionProvider"])
        feeds = [
            {"x": inputs, "x_lens": lengths_B, "gates": np.array([i in subset for i in range(subset.n_blocks)])}
            for subset in subsets
        ]
        found[name] = [partial(session.run, None, feed) for feed in feeds]
    return found


if __name__ == "__main__":
    main()
