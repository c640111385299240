"""Skip efficiency: latency at n blocks over latency at N, against n/N.

    python benchmarks/latency.py [--size xs s paper] [--seconds 10] [--threads 1]

One utterance, network alone (front end, kept blocks, head), random weights: time does not depend on them. All depths
take turns. The aim is to be within 5 points of n/N at every depth.
"""

from __future__ import annotations

import argparse
import json

import torch

from layerdial.config import ConformerConfig
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.models.cost import forward_pass, macs_per_second
from layerdial.subset import BlockSubset
from layerdial.timing import measure_in_turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", default=["xs", "s", "paper"])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=21)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for size in options.size:
        network = ConformerCTC(ConformerConfig.model_validate({"size": size}), 256).eval()
        subsets = [BlockSubset.even(network.n_blocks, depth) for depth in range(1, network.n_blocks + 1)]
        runs = [forward_pass(network, subset, options.seconds) for subset in subsets]
        with torch.inference_mode():
            times = measure_in_turns(runs, 2, options.repeats, 120.0)
        print(f"\n{size}: {network.n_blocks} blocks, {options.threads} thread(s), {options.seconds:g} s of audio")
        print("depth   n/N  latency  difference     MACs")
        full_macs = macs_per_second(network, subsets[-1])
        worst = 0.0
        for subset, time_ms in zip(subsets, times, strict=True):
            share, latency = subset.depth / network.n_blocks, time_ms / times[-1]
            worst = max(worst, abs(latency - share))
            macs = macs_per_second(network, subset) / full_macs
            print(f"{subset.depth:5} {share:5.3f}    {latency:5.3f}      {latency - share:+.3f}    {macs:5.3f}")
        print(json.dumps({"size": size, "worst_difference_from_n_over_N": round(worst, 3)}))


if __name__ == "__main__":
    main()
