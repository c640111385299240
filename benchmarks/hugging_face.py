"""What it costs to run a Hugging Face model as a dynamic network: steps, memory and inference beside the library's own.

    python benchmarks/hugging_face.py [--model wavlm wav2vec2 hubert] [--layers 12] [--width 768] [--threads 1]

A training step is forward, CTC loss, backward, clipping and AdamW on the same padded batch, the front end frozen; the
unmodified model computes its own loss. All take turns, so that a busy machine slows them alike; reported are medians of
the ratios within a turn. Memory is the peak of a process of its own, above what it needs before the first step.
The aims: full depth within 3 % of the unmodified model, half depth at most 0.6 of it, inference within 2 %.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from layerdial.config.network import HuggingFaceConfig
from layerdial.config.recipe import OptimConfig
from layerdial.models.huggingface.checkpoint import new_hugging_face
from layerdial.models.huggingface.processor import character_processor
from layerdial.modules.losses import ctc
from layerdial.subset import BlockSubset
from layerdial.training.optim import make_optimizer

Run = Callable[[], object]


def main() -> None:
    options = _options()
    warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
    torch.set_num_threads(options.threads)
    for model in options.model:
        runs = {name: make(model, options) for name, make in {**_STEPS, **_INFERENCES}.items()}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(options.turns + 1):
            order = random.Random(turn).sample(list(runs), len(runs))  # none always follows the same other
            for name in order:
                began = time.perf_counter()
                runs[name]()
                if turn:  # the first is for warming up
                    times[name].append(time.perf_counter() - began)
        del runs
        peaks = {name: _peak_in_own_process(name, model, options) for name in _STEPS}
        _report(model, options, times, peaks)


def _unmodified_step(model: str, options: argparse.Namespace) -> Run:
    """The library's model, its own loss, its own way of freezing."""
    plain = _plain(model, options).train()
    plain.freeze_feature_encoder()
    if hasattr(plain.base_model, "masked_spec_embed"):
        plain.base_model.masked_spec_embed.requires_grad_(False)
    samples_BS, lengths_B, labels_BU = _batch(options)
    mask_BS = (torch.arange(samples_BS.shape[1]) < lengths_B.unsqueeze(1)).long()
    parameters = [p for p in plain.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)

    def run() -> None:
        plain(samples_BS, attention_mask=mask_BS, labels=labels_BU).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def _dynamic_step(depth_share: float) -> Callable[[str, argparse.Namespace], Run]:
    def make(model: str, options: argparse.Namespace) -> Run:
        network = _network(model, options)
        network.train()
        network.prepare_training(HuggingFaceConfig())
        samples_BS, lengths_B, labels_BU = _batch(options)
        subset = BlockSubset.even(network.n_blocks, max(1, round(depth_share * network.n_blocks)))
        optimizer = make_optimizer(network, OptimConfig(lr=1e-5))
        parameters = [p for p in network.parameters() if p.requires_grad]
        frames_B, label_lengths_B = (
            network.features.frames(lengths_B),
            torch.full((len(labels_BU),), labels_BU.shape[1]),
        )

        def run() -> None:
            logp_BTV, _ = network(samples_BS, lengths_B, subset)
            torch.autograd.backward(ctc(logp_BTV, frames_B, labels_BU, label_lengths_B))
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return run

    return make


def _unmodified_inference(model: str, options: argparse.Namespace) -> Run:
    plain, samples_BS = _plain(model, options).eval(), _batch(options)[0][:1]

    def run() -> None:
        with torch.inference_mode():
            plain(samples_BS).logits.log_softmax(dim=-1)

    return run


def _dynamic_inference(model: str, options: argparse.Namespace) -> Run:
    network, samples_BS = _network(model, options).eval(), _batch(options)[0][:1]
    lengths_B, subset = torch.tensor([samples_BS.shape[1]]), BlockSubset.full(network.n_blocks)

    def run() -> None:
        with torch.inference_mode():
            network(samples_BS, lengths_B, subset)

    return run


_STEPS: dict[str, Callable[[str, argparse.Namespace], Run]] = {
    "unmodified": _unmodified_step,
    "full": _dynamic_step(1.0),
    "half": _dynamic_step(0.5),
}
_INFERENCES = {"unmodified inference": _unmodified_inference, "inference": _dynamic_inference}


def _settings(model: str, options: argparse.Namespace) -> dict[str, Any]:
    heads = max(1, options.width // 64)
    sizes = {"num_hidden_layers": options.layers, "hidden_size": options.width, "num_attention_heads": heads}
    return {**sizes, "intermediate_size": 4 * options.width, "model_type": model}


def _network(model: str, options: argparse.Namespace) -> Any:
    torch.manual_seed(0)
    return new_hugging_face(_settings(model, options), _processor())[0]


def _plain(model: str, options: argparse.Namespace) -> Any:
    torch.manual_seed(0)
    settings = {k: v for k, v in _settings(model, options).items() if k != "model_type"}
    settings |= {"vocab_size": len(_processor().tokenizer), "layerdrop": 0.0, "apply_spec_augment": False}
    config = transformers.AutoConfig.for_model(model, **settings)
    return transformers.AutoModelForCTC.from_config(config)


def _processor() -> Any:
    return character_processor(["abcdefghijklmnopqrstuvwxyz"], transformers.Wav2Vec2FeatureExtractor())


def _batch(options: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise of `seconds`, the shorter utterances padded, and forty letters each."""
    generator = torch.Generator().manual_seed(0)
    longest = round(16000 * options.seconds)
    lengths_B = torch.tensor([longest - 1600 * i for i in range(options.batch)])
    samples_BS = torch.randn(options.batch, longest, generator=generator)
    samples_BS[torch.arange(longest) >= lengths_B.unsqueeze(1)] = 0.0
    return samples_BS, lengths_B, torch.randint(3, 29, (options.batch, 40), generator=generator)


def _peak_in_own_process(name: str, model: str, options: argparse.Namespace) -> float:
    """Megabytes that two steps add to what the process held before."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (name, model, options))


def _peak(name: str, model: str, options: argparse.Namespace) -> float:
    torch.set_num_threads(options.threads)
    run = _STEPS[name](model, options)
    before = _high_water_mark()
    run()
    run()
    return _high_water_mark() - before


def _high_water_mark() -> float:
    """Megabytes: the most that this process has held. (Linux; getrusage would count the parent's too.)"""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _report(model: str, options: argparse.Namespace, times: dict[str, list[float]], peaks: dict[str, float]) -> None:
    def ratio(a: str, b: str) -> float:
        return round(statistics.median(x / y for x, y in zip(times[a], times[b], strict=True)), 3)

    row = {
        "model": model,
        "step_full_over_unmodified": ratio("full", "unmodified"),
        "step_half_over_unmodified": ratio("half", "unmodified"),
        "inference_over_unmodified": ratio("inference", "unmodified inference"),
        "memory_full_over_unmodified": round(peaks["full"] / peaks["unmodified"], 3),
        "memory_half_over_unmodified": round(peaks["half"] / peaks["unmodified"], 3),
        **{name: getattr(options, name) for name in ("layers", "width", "batch", "seconds", "threads", "turns")},
    }
    print(json.dumps(row), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["wavlm", "wav2vec2", "hubert"])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=9)
    return parser.parse_args()


if __name__ == "__main__":
    main()
