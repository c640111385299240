"""Cost of a subset: parameters in use, multiply-accumulates per second of audio.

Both count what runs for the subset on one utterance. A skipped block is never called, so it costs nothing. What the
skip rule leaves of it (its final norm) is called, so it is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from layerdial.cost import Cost
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.models.dynamic import Choice
from layerdial.models.network import Network
from layerdial.models.streaming import step_through
from layerdial.subset import BlockSubset, ChunkSchedule, SelectorDepth


def subset_cost(network: Network, subset: Choice, seconds: float = 10.0) -> Cost:
    """Return both counts for audio of `seconds`. The length belongs to the number, as attention grows with it."""
    return Cost(parameter_count(network, subset), macs_per_second(network, subset, seconds))


def parameter_count(network: Network, subset: Choice) -> int:
    """Return the number of parameters that `subset` uses.

    These are the front end's, the kept blocks', the head's, and what the skip rule leaves of the other blocks. A
    parameter that several modules share counts once.
    """
    optional = [block for i, block in enumerate(network.blocks) if not _runs(subset, i)]
    optional += network.optional_heads
    if network.selector is not None and not isinstance(subset, SelectorDepth):
        optional.append(network.selector)
    skipped = {module for part in optional for module in part.modules()}
    called = _called(network, skipped, subset)
    # not every submodule is called itself: of some only the weights are read
    called |= {module for part in optional if part in called for module in part.modules()}
    in_use = [module for module in network.modules() if module not in skipped or module in called]
    return sum(p.numel() for p in {p for module in in_use for p in module.parameters(recurse=False)})


def _runs(subset: Choice, block: int) -> bool:
    """Whether a block is known to run, in any chunk where the subset may change."""
    subsets = subset.subsets if isinstance(subset, ChunkSchedule) else (subset,)
    return any(isinstance(one, BlockSubset) and block in one for one in subsets)


def _called(network: Network, watched: set[nn.Module], subset: Choice) -> set[nn.Module]:
    """Return those of the watched modules that a forward pass calls."""
    called: set[nn.Module] = set()
    hooks = [module.register_forward_pre_hook(lambda module, _: called.add(module)) for module in watched]
    try:
        forward_pass(network, subset, *network.example_inputs(0.5))()
    finally:
        for hook in hooks:
            hook.remove()
    return called


def macs_per_second(network: Network, subset: Choice, seconds: float = 10.0) -> float:
    """Return the multiply-accumulates of one utterance of `seconds`, per second of audio, without feature extraction.

    Counts matrix products and convolutions (`torch.utils.flop_counter`, two operations a multiply-accumulate). Norms,
    activations and softmax are not counted, as is usual. Attention is counted as its two matrix products. On the CPU
    the counter does not see torch's fused attention, so the count uses the unfused one (SDPBackend.MATH).
    """
    run = forward_pass(network, subset, *network.example_inputs(seconds))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops()) / 2 / seconds


def forward_pass(network: Network, subset: Choice, inputs: Tensor, lengths_B: Tensor) -> Callable[[], None]:
    """Return a function that runs the network on `inputs` and returns when the device has finished.

    A streaming network runs a schedule of chunks as a stream, chunk by chunk.
    """
    device = inputs.device

    def run() -> None:
        with _evaluating(network), torch.no_grad():
            if isinstance(subset, ChunkSchedule) and isinstance(network, ConformerCTC) and network.config.streaming:
                step_through(network, inputs, lengths_B, subset)
            else:
                network(inputs, lengths_B, subset)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Set evaluation mode inside the context, and restore the mode of every module afterwards."""
    training = [module for module in network.modules() if module.training] if network.training else []
    if training:
        network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
