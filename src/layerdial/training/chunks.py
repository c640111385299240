"""Chunks in the training of a streaming network: their size, drawn for each step, and for some steps their depths.

All is a pure function of the run's seed and of the step, as a policy's draws are.
"""

from __future__ import annotations

import random

from layerdial.config.network import FRAME_MS
from layerdial.config.policies import Policy, Prefix
from layerdial.config.recipe import Recipe
from layerdial.errors import UserError
from layerdial.ladder import Ladder
from layerdial.models.network import Network
from layerdial.models.streaming import streaming_of
from layerdial.subset import Blocks, BlockSubset, ChunkSchedule, in_chunks
from layerdial.training.policies import DrawBlocks, make_policy

_DEPTHS = 8  # drawn for a step whose depth changes from chunk to chunk; they begin anew when they are used up
_LONGEST_MS = 1000  # that each of them lasts


def make_drawing(recipe: Recipe, network: Network, ladder: Ladder | None = None) -> DrawBlocks:
    """Return step -> what to train at that step: the policy's subsets, for a streaming network in chunks.

    A chunk's size is drawn from `model.streaming.chunk_ms`, the same for all subsets of a step. In a share of the
    steps, `train.depth_per_chunk`, the policy draws several times, and each subset is replaced by those that are drawn
    in its place, each for up to a second of the utterance.
    """
    seed, n_blocks = recipe.train.seed, network.n_blocks
    draw = make_policy(recipe.policy, n_blocks, seed, ladder)
    streaming = streaming_of(network)
    if streaming is None:
        return draw
    share = recipe.train.depth_per_chunk
    changing = [make_policy(_changing(recipe), n_blocks, f"{seed}/{i}", ladder) for i in range(_DEPTHS)]

    def drawn(step: int) -> tuple[Blocks, ...]:
        rng = random.Random(f"chunks/{seed}/{step}")
        if rng.random() < share:
            frames = rng.choice([size for size in streaming.chunk_frames if size is not None])
            lasting = [rng.randint(1, max(1, _LONGEST_MS // FRAME_MS // frames)) for _ in changing]
            draws = zip(*(policy(step) for policy in changing), strict=True)
            return tuple(_in_turn(subsets, lasting, frames) for subsets in draws)
        size = rng.choice(streaming.chunk_frames)
        return tuple(in_chunks(blocks, size) for blocks in draw(step))

    return drawn


def on_dev(blocks: Blocks, network: Network) -> Blocks:
    """Return what runs when a network is measured on dev: the largest chunks that it is trained for."""
    streaming = streaming_of(network)
    if streaming is None or None in streaming.chunk_frames:
        return blocks
    return in_chunks(blocks, max(size for size in streaming.chunk_frames if size is not None))


def check_depth_per_chunk(recipe: Recipe, network: Network) -> None:
    """Raise `UserError` where depths cannot change from chunk to chunk, although the recipe says so."""
    if not recipe.train.depth_per_chunk:
        return
    streaming = streaming_of(network)
    if streaming is None:
        raise UserError("train.depth_per_chunk is set, but this network takes whole utterances; set model.streaming")
    if streaming.chunk_frames == (None,):
        raise UserError("train.depth_per_chunk is set, but model.streaming.chunk_ms is full alone, which is one chunk")
    if not recipe.policy.drops and not recipe.objective.trains_every_depth(network.n_blocks):
        raise UserError(
            "train.depth_per_chunk is set, but every depth is full: the policy never leaves a block out, and there is "
            "no exit after each; set policy.name: uniform_count, or objective.exits.at: all"
        )


def _changing(recipe: Recipe) -> Policy:
    """Return the policy that the depths of chunks are drawn by; without dropping, it is the depths of the exits."""
    return recipe.policy if recipe.policy.drops else Prefix(name="prefix")


def _in_turn(subsets: tuple[Blocks, ...], lasting: list[int], frames: int) -> Blocks:
    """Return the schedule in which each subset runs for its number of chunks."""
    if len(set(subsets)) == 1:
        return in_chunks(subsets[0], frames)
    turns = [subset for subset, chunks in zip(subsets, lasting, strict=True) for _ in range(chunks)]
    return ChunkSchedule((frames,), tuple(subset for subset in turns if isinstance(subset, BlockSubset)))
