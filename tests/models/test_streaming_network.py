"""A streaming Conformer chunk by chunk equals itself over whole utterances, masked; what it keeps has a fixed size."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from layerdial.config.network import ConformerConfig
from layerdial.config.strict import parse
from layerdial.errors import UserError
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.models.streaming import Caches, step, streaming_network
from layerdial.subset import BlockSubset, ChunkSchedule
from tiny_streaming_export import N_BLOCKS, SETTINGS, network, random_schedule

FULL = BlockSubset.full(N_BLOCKS)


@torch.no_grad()
def in_chunks(net: ConformerCTC, x_BTF: Tensor, lengths_B: Tensor, schedule: ChunkSchedule) -> tuple[Tensor, Caches]:
    caches = Caches.begin(net.config, len(x_BTF))
    made = []
    for first, end, subset in schedule.chunks(-(-x_BTF.shape[1] // 4)):
        chunk_BTF = x_BTF[:, 4 * first : 4 * end]
        lengths = (lengths_B - 4 * first).clamp(0, chunk_BTF.shape[1])
        output, caches = step(net, chunk_BTF, lengths, subset, caches)
        made.append(output.log_probs_BTV)
    return torch.cat(made, dim=1), caches


@pytest.mark.parametrize("self_condition", [False, True])
@pytest.mark.parametrize(
    "trials", [pytest.param(30, marks=pytest.mark.medium), pytest.param(500, marks=pytest.mark.slow)]
)
def test_chunk_by_chunk_equals_masked_offline_for_random_schedules(trials: int, self_condition: bool) -> None:
    net, rng = network(self_condition), random.Random(0)
    for _ in range(trials):
        longest = rng.randint(5, 120)
        x_BTF = torch.randn(2, longest, 80)
        lengths_B = torch.tensor([longest, rng.randint(1, longest)])
        schedule = random_schedule(rng, -(-longest // 4))
        with torch.no_grad():
            offline = net(x_BTF, lengths_B, schedule)
        streamed_BTV, _ = in_chunks(net, x_BTF, lengths_B, schedule)
        for row, frames in enumerate(offline.lengths_B.tolist()):
            torch.testing.assert_close(
                streamed_BTV[row, :frames], offline.log_probs_BTV[row, :frames], atol=1e-4, rtol=0
            )


def test_one_chunk_for_everything_is_the_network_without_chunks() -> None:
    net, x_BTF, lengths_B = network(left_context_ms=40), torch.randn(2, 101, 80), torch.tensor([101, 60])
    with torch.no_grad():
        plain = net(x_BTF, lengths_B, FULL).log_probs_BTV
        chunked = net(x_BTF, lengths_B, ChunkSchedule((1000,), (FULL,))).log_probs_BTV
    torch.testing.assert_close(chunked[0], plain[0])
    torch.testing.assert_close(chunked[1, :15], plain[1, :15])


def test_frames_do_not_depend_on_what_comes_behind_their_chunk() -> None:
    net, x_BTF, lengths_B = network(), torch.randn(1, 96, 80), torch.tensor([96])
    changed_BTF = x_BTF.clone()
    changed_BTF[:, 64:] += 1.0
    with torch.no_grad():
        before, after = (net(x, lengths_B, ChunkSchedule((4,), (FULL,))).log_probs_BTV for x in (x_BTF, changed_BTF))
    assert torch.equal(before[:, :16], after[:, :16])
    assert not torch.allclose(before[:, 16:20], after[:, 16:20])


def test_frames_see_no_further_back_than_the_left_context_and_the_convolutions() -> None:
    net = network(left_context_ms=160)
    reach = N_BLOCKS * (4 + 4)  # 4 frames of left context, 4 of the kernel's past, a block
    x_BTF, lengths_B = torch.randn(1, 4 * 60, 80), torch.tensor([240])
    changed_BTF = x_BTF.clone()
    changed_BTF[:, : 4 * 20] += 1.0
    with torch.no_grad():
        before, after = (net(x, lengths_B, ChunkSchedule((1,), (FULL,))).log_probs_BTV for x in (x_BTF, changed_BTF))
    last_changed = 20  # its front end reaches one frame further
    assert torch.equal(before[:, last_changed + reach + 1 :], after[:, last_changed + reach + 1 :])
    assert not torch.allclose(before[:, last_changed], after[:, last_changed])


def test_a_stream_in_a_batch_equals_the_stream_alone_and_an_idle_one_keeps_its_caches() -> None:
    net, x_BTF = network(), torch.randn(3, 64, 80)
    lengths_B = torch.tensor([64, 0, 30])
    schedule = ChunkSchedule((4,), (FULL, BlockSubset.prefix(N_BLOCKS, 1)))
    together, caches = in_chunks(net, x_BTF, lengths_B, schedule)
    for row in (0, 2):
        frames = -(-int(lengths_B[row]) // 4)
        alone, own = in_chunks(net, x_BTF[row : row + 1], lengths_B[row : row + 1], schedule)
        torch.testing.assert_close(together[row, :frames], alone[0, :frames])
        torch.testing.assert_close(caches.keys_NBLE[:, row], own.keys_NBLE[:, 0])
    idle = Caches.begin(net.config, 1)
    torch.testing.assert_close(caches.keys_NBLE[:, 1], idle.keys_NBLE[:, 0])
    assert caches.seen_B.tolist() == [16, 0, 8]


def test_caches_have_the_same_size_whatever_came() -> None:
    net = network()
    before = Caches.begin(net.config, 1)
    _, after = in_chunks(net, torch.randn(1, 400, 80), torch.tensor([400]), ChunkSchedule((4,), (FULL,)))
    assert [part.shape for part in before] == [part.shape for part in after]


def test_a_skipped_block_is_not_called_and_its_input_stands_in_its_caches() -> None:
    net = network()

    def fail(*_: object) -> None:
        raise AssertionError("a skipped block was called")

    for module in net.blocks[1].modules():
        module.register_forward_pre_hook(fail)
    subset = BlockSubset(N_BLOCKS, (0, 2))
    _, caches = in_chunks(net, torch.randn(1, 16, 80), torch.tensor([16]), ChunkSchedule((4,), (subset,)))
    with torch.no_grad():  # nor in whole utterances
        net(torch.randn(1, 16, 80), torch.tensor([16]), ChunkSchedule((2,), (subset, BlockSubset(N_BLOCKS, (0,)))))
    torch.testing.assert_close(caches.keys_NBLE[1, :, -4:, :16], caches.gated_NBKD[1, :, -4:])
    assert caches.raw_NBP[1, 0, -4:].all() and not caches.raw_NBP[[0, 2]].any()


def test_a_block_that_runs_again_projects_its_past_once() -> None:
    net, subsets = network(), (FULL, BlockSubset.prefix(N_BLOCKS, 1), FULL, FULL)
    projected: list[int] = []
    for i, block in enumerate(net.blocks):
        block.attention.qkv.register_forward_pre_hook(lambda _, x, i=i: projected.append(x[0].shape[1] * 10 + i))
    in_chunks(net, torch.randn(1, 64, 80), torch.tensor([64]), ChunkSchedule((4,), subsets))
    chunk, past = 4 * 10, 10 * 10  # frames that are projected, and the block
    of_all = [chunk, chunk + 1, chunk + 2]
    assert projected == [*of_all, chunk, past + 1, past + 2, *of_all, *of_all]


def test_depth_by_chunk_trains_the_blocks_that_ran() -> None:
    net = network()
    schedule = ChunkSchedule((4,), (BlockSubset(N_BLOCKS, (0, 2)), BlockSubset(N_BLOCKS, (0,))))
    net(torch.randn(1, 64, 80), torch.tensor([64]), schedule).log_probs_BTV.square().sum().backward()
    assert [all(p.grad is not None for p in block.parameters()) for block in net.blocks] == [True, False, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalise": "utterance"}, "has not heard the utterance"),
        ({"exit_heads": True}, "exit_heads goes with one depth an utterance"),
        ({"selector": "input"}, "selector goes with one depth an utterance"),
        ({"streaming": {"chunk_ms": [90]}}, "multiple of 40"),
        ({"streaming": {"chunk_ms": []}}, "chunk_ms names sizes"),
        ({"streaming": {"left_context_ms": 0}}, "greater than or equal to 40"),
    ],
)
def test_what_streaming_cannot_do_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(ConformerConfig, SETTINGS | {"streaming": {}} | settings, "recipe.yaml")


def test_networks_for_whole_utterances_refuse_chunks() -> None:
    offline = ConformerCTC(ConformerConfig(**SETTINGS), 7)
    with pytest.raises(UserError, match="takes whole utterances"):
        streaming_network(offline, "model")
    with pytest.raises(UserError, match="takes whole utterances"):
        offline(torch.randn(1, 16, 80), torch.tensor([16]), ChunkSchedule((4,), (FULL,)))
