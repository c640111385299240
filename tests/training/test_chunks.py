"""Chunks in training: drawn by (seed, step) around what the policy draws, and resumed as if nothing had happened."""

from __future__ import annotations

import signal
from itertools import groupby
from pathlib import Path

import pytest

from layerdial.config.recipe import Recipe
from layerdial.errors import UserError
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.subset import Blocks, BlockSubset, ChunkSchedule
from layerdial.training.chunks import make_drawing, on_dev
from layerdial.training.loop import train
from layerdial.training.policies import make_policy
from layerdial.training.setup import check_abilities
from tiny import RANDOM, equal, in_child, losses, tiny_network, tiny_recipe, weights
from tiny_training import kill_at_step

STREAMING = ("model.normalise=fixed", "model.streaming={chunk_ms: [80, 160, full], left_context_ms: 400}")
EXITS = ("policy={name: none}", "objective.exits={at: all}")
PER_CHUNK = "train.depth_per_chunk=1.0"


def recipe_with(folder: Path, *changes: str) -> Recipe:
    return tiny_recipe(folder / "run", Path("train"), Path("dev"), *changes)


def network_of(recipe: Recipe) -> ConformerCTC:
    assert recipe.model is not None
    return tiny_network(**recipe.model.model_dump(exclude={"family"}))


def draws(recipe: Recipe, steps: int = 200) -> list[tuple[Blocks, ...]]:
    draw = make_drawing(recipe, network_of(recipe))
    return [draw(step) for step in range(steps)]


def without_chunks(blocks: Blocks) -> Blocks:
    return blocks.subsets[0] if isinstance(blocks, ChunkSchedule) else blocks


def test_every_size_of_chunks_is_drawn_around_what_the_policy_draws(tmp_path: Path) -> None:
    recipe = recipe_with(tmp_path, *STREAMING)
    drawn = draws(recipe)
    policy = make_policy(recipe.policy, 3, recipe.train.seed)
    assert [tuple(map(without_chunks, blocks)) for blocks in drawn] == [policy(step) for step in range(200)]
    sizes = [blocks.frames if isinstance(blocks, ChunkSchedule) else None for (blocks,) in drawn]
    assert all(50 < sizes.count(size) < 84 for size in [(2,), (4,), None])
    assert drawn == draws(recipe) and drawn != draws(recipe_with(tmp_path, *STREAMING, "train.seed=1"))


def test_a_network_that_takes_whole_utterances_draws_as_its_policy(tmp_path: Path) -> None:
    recipe = recipe_with(tmp_path)
    policy = make_policy(recipe.policy, 3, recipe.train.seed)
    assert draws(recipe, 20) == [policy(step) for step in range(20)]


def test_a_share_of_the_steps_has_a_depth_for_each_chunk(tmp_path: Path) -> None:
    drawn = draws(recipe_with(tmp_path, *STREAMING, "train.depth_per_chunk=0.5"))
    changing = [blocks for (blocks,) in drawn if isinstance(blocks, ChunkSchedule) and len(blocks.subsets) > 1]
    assert 80 < len(changing) < 120
    assert {subset.depth for blocks in changing for subset in blocks.subsets} == {1, 2, 3}
    runs = [len(list(run)) * blocks.frames[0] for blocks in changing for _, run in groupby(blocks.subsets)]
    assert max(runs) > 25  # frames of 40 ms: depth lasts for a while


def test_where_depths_change_a_sandwich_keeps_its_smallest_and_its_full_pass(tmp_path: Path) -> None:
    sandwich = "policy={name: sandwich, subsets: even, min_depth: 2}"
    for small, _, full in draws(recipe_with(tmp_path, *STREAMING, sandwich, PER_CHUNK)):
        assert isinstance(small, ChunkSchedule) and small.subsets == (BlockSubset.even(3, 2),)
        assert isinstance(full, ChunkSchedule) and full.subsets == (BlockSubset.full(3),)


def test_without_dropping_the_depths_of_chunks_are_those_of_the_exits(tmp_path: Path) -> None:
    drawn = draws(recipe_with(tmp_path, *STREAMING, *EXITS, PER_CHUNK))
    subsets = {subset for (blocks,) in drawn if isinstance(blocks, ChunkSchedule) for subset in blocks.subsets}
    assert subsets == {BlockSubset.prefix(3, depth) for depth in (1, 2, 3)}


def test_dev_hears_the_largest_chunks_that_are_trained(tmp_path: Path) -> None:
    both = network_of(recipe_with(tmp_path, *STREAMING))
    chunks = network_of(recipe_with(tmp_path, *STREAMING, "model.streaming.chunk_ms=[80, 160]"))
    full = BlockSubset.full(3)
    assert on_dev(full, both) == full and on_dev(full, chunks) == ChunkSchedule((4,), (full,))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ([], "takes whole utterances; set model.streaming"),
        ([*STREAMING, "model.streaming.chunk_ms=[full]"], "which is one chunk"),
        ([*STREAMING, "policy={name: none}"], "every depth is full"),
    ],
)
def test_depths_that_cannot_change_are_refused(tmp_path: Path, changes: list[str], problem: str) -> None:
    recipe = recipe_with(tmp_path, *changes, PER_CHUNK)
    with pytest.raises(UserError, match=problem):
        check_abilities(recipe, network_of(recipe))


@pytest.mark.medium
@pytest.mark.parametrize(
    "changes",
    [EXITS, ("policy={name: sandwich}", "objective.in_place={weight: 1.0}")],
    ids=["exits", "teacher-in-place"],
)
def test_resumed_in_chunks_equals_uninterrupted(corpus, tmp_path: Path, changes: tuple[str, ...]) -> None:
    settings = (*RANDOM, *STREAMING, *changes, "train.depth_per_chunk=0.5", "train.steps=6")
    whole, resumed = (tiny_recipe(tmp_path / name, corpus.train, corpus.dev, *settings) for name in ("a", "b"))
    train(whole)

    def killed_run() -> None:
        kill_at_step(5)
        train(resumed)

    assert in_child(killed_run).code == -signal.SIGKILL
    train(resumed, resume=True)
    assert losses(resumed.out) == losses(whole.out)
    assert equal(weights(resumed.out), weights(whole.out))
