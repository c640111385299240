"""A drop policy is a pure function of (seed, step), never empty, and draws what its name says."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from math import comb
from pathlib import Path

import numpy as np
import pytest

from layerdial.config.policies import POLICIES, Policy
from layerdial.config.recipe import Recipe
from layerdial.errors import UserError
from layerdial.ladder import Ladder, Rung
from layerdial.subset import Blocks, BlockSubset, SelectorDepth
from layerdial.training.policies import evaluated_subset, make_policy
from tiny import tiny_recipe

NAMES = ("none", "bernoulli", "uniform_count", "stochastic_depth", "prefix", "sandwich")
N, STEPS = 8, 2000


def config(name: str, keep_prob: float = 0.5) -> Policy:
    takes = name in ("bernoulli", "stochastic_depth")
    return POLICIES.parse({"name": name, **({"keep_prob": keep_prob} if takes else {})})


def recipe_with(folder: Path, *changes: str) -> Recipe:
    return tiny_recipe(folder / "run", Path("train"), Path("dev"), *changes)


def draws(name: str, keep_prob: float = 0.5, seed: int = 0, n_blocks: int = N) -> list[tuple[BlockSubset, ...]]:
    policy = make_policy(config(name, keep_prob), n_blocks, seed)
    return [policy(step) for step in range(STEPS)]


def kept_share(drawn: list[tuple[BlockSubset, ...]], block: int) -> float:
    return sum(block in subset for (subset,) in drawn) / len(drawn)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n_blocks", [1, 2, 8])
def test_a_policy_never_draws_an_empty_subset(name: str, n_blocks: int) -> None:
    for subsets in draws(name, keep_prob=0.01, n_blocks=n_blocks):
        assert subsets
        assert all(subset.n_blocks == n_blocks and 1 <= subset.depth <= n_blocks for subset in subsets)


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_does_not_look_at_global_random_state_nor_touch_it(name: str) -> None:
    import torch

    first = draws(name)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), torch.get_rng_state()
    assert draws(name) == first
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_step_can_be_asked_for_in_any_order_and_again(name: str) -> None:
    policy, expected = make_policy(config(name), N, 3), draws(name, seed=3)
    order = random.Random(0).choices(range(STEPS), k=300)
    assert [policy(step) for step in order] == [expected[step] for step in order]


@pytest.mark.parametrize("name", NAMES[1:])
def test_seeds_and_steps_give_other_draws(name: str) -> None:
    assert draws(name, seed=1) != draws(name, seed=2)
    assert len(set(draws(name))) >= N


def test_a_fresh_process_with_other_hashes_draws_the_same() -> None:
    code = (
        "from layerdial.config.policies import POLICIES;"
        "from layerdial.training.policies import make_policy as m;"
        "probs = {'bernoulli': .5, 'uniform_count': None, 'stochastic_depth': .5, 'prefix': None, 'sandwich': None};"
        "data = [{'name': n, 'keep_prob': p} if p else {'name': n} for n, p in probs.items()];"
        "print([[s.key for s in m(POLICIES.parse(d), 8, 5)(i)] for d in data for i in range(30)])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "4242"}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    ours = [
        [subset.key for subset in make_policy(config(name), 8, 5)(step)] for name in NAMES[1:] for step in range(30)
    ]
    assert printed.stdout.strip() == str(ours)


@pytest.mark.parametrize("keep_prob", [0.3, 0.8, 1.0])
def test_keep_prob_is_the_probability_of_keeping(keep_prob: float) -> None:
    drawn = draws("bernoulli", keep_prob)
    expected = keep_prob / (1 - (1 - keep_prob) ** N)  # given that not all are dropped
    for block in range(N):
        assert kept_share(drawn, block) == pytest.approx(expected, abs=0.05)


def test_blocks_are_kept_independently() -> None:
    drawn = draws("bernoulli", 0.5)
    for a, b in combinations(range(N), 2):
        both = sum(a in subset and b in subset for (subset,) in drawn) / STEPS
        assert both == pytest.approx(0.25, abs=0.05)


def test_stochastic_depth_falls_linearly_to_keep_prob_at_the_last_block() -> None:
    drawn = draws("stochastic_depth", 0.4)
    for block in range(N):
        assert kept_share(drawn, block) == pytest.approx(1 - (block + 1) / N * 0.6, abs=0.05)


def test_uniform_count_draws_every_depth_and_every_choice_of_blocks_alike() -> None:
    drawn = draws("uniform_count", n_blocks=4)
    depths = Counter(subset.depth for (subset,) in drawn)
    assert set(depths) == {1, 2, 3, 4}
    assert all(count / STEPS == pytest.approx(1 / 4, abs=0.05) for count in depths.values())
    keys = Counter(drawn_subset for (drawn_subset,) in drawn)
    assert len(keys) == 15
    for subset, count in keys.items():
        assert count / STEPS == pytest.approx(1 / 4 / comb(4, subset.depth), abs=0.03)


def test_prefix_draws_prefixes_of_every_depth_alike() -> None:
    drawn = draws("prefix")
    assert {subset for (subset,) in drawn} == {BlockSubset.prefix(N, depth) for depth in range(1, N + 1)}
    depths = Counter(subset.depth for (subset,) in drawn)
    assert all(count / STEPS == pytest.approx(1 / N, abs=0.03) for count in depths.values())


def test_a_sandwich_is_the_smallest_a_random_one_and_ends_with_full() -> None:
    drawn = draws("sandwich")
    for smallest, between, full in drawn:
        assert smallest.depth == 1 and full == BlockSubset.full(N) and 1 <= between.depth <= N
    assert {smallest.kept[0] for smallest, _, _ in drawn} == set(range(N))
    assert {between.depth for _, between, _ in drawn} == set(range(1, N + 1))


def test_no_dropping_runs_every_block() -> None:
    assert set(draws("none")) == {(BlockSubset.full(N),)}


# ------------------------------------------------------------------------------------- which blocks a depth has, ends

RULES = ("random", "prefix", "even", "ladder", "chosen")
LADDER = Ladder(
    4,
    "loss",
    "dev",
    1,
    tuple(Rung(d, key, None, 0.0, 0, 1) for d, key in enumerate(("0010", "0110", "0111", "1111"), 1)),
)


def of_rule(rule: str, name: str = "uniform_count", seed: int = 0, **more: int) -> list[tuple[Blocks, ...]]:
    chosen = POLICIES.parse({"name": name, "subsets": rule, **more})
    policy = make_policy(chosen, 4, seed, LADDER)
    return [policy(step) for step in range(STEPS)]


def test_the_draws_of_earlier_versions_are_unchanged() -> None:
    """By the formulas that they were made by, so that a run begun with them goes on as it would have."""
    uniform, sandwich = draws("uniform_count", seed=7), draws("sandwich", seed=7)
    for step in range(STEPS):
        rng = random.Random(f"policy/uniform_count/7/{step}")
        assert uniform[step][0].kept == tuple(sorted(rng.sample(range(N), rng.randint(1, N))))
        rng = random.Random(f"policy/sandwich/7/{step}")
        assert sandwich[step][0].kept == (rng.randrange(N),)
        assert sandwich[step][1].kept == tuple(sorted(rng.sample(range(N), rng.randint(1, N))))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["uniform_count", "sandwich"])
def test_every_rule_draws_every_depth_again_and_again_alike(rule: str, name: str) -> None:
    drawn = of_rule(rule, name)
    assert drawn == of_rule(rule, name) != of_rule(rule, name, seed=1)
    depths = Counter(subsets[name == "sandwich"].depth for subsets in drawn)
    assert all(depths[depth] / STEPS == pytest.approx(1 / 4, abs=0.05) for depth in range(1, 5))


@pytest.mark.parametrize("name", ["uniform_count", "sandwich"])
def test_depths_below_the_least_are_never_drawn(name: str) -> None:
    drawn = of_rule("ladder", name, min_depth=3)
    firsts = (3, 4) if name == "uniform_count" else (3,)
    assert {subsets[0] for subsets in drawn} == {LADDER.subset(depth) for depth in firsts}
    assert {subset.depth for subsets in drawn for subset in subsets} == {3, 4}


def test_a_least_depth_that_the_network_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match=r"depth 5 does not exist in an encoder of 4 blocks"):
        of_rule("even", min_depth=5)


def test_a_rule_says_which_blocks_a_depth_has(tmp_path: Path) -> None:
    full = BlockSubset.full(4)
    expected: dict[str, set[Blocks]] = {
        "prefix": {BlockSubset.prefix(4, depth) for depth in range(1, 5)},
        "even": {BlockSubset.even(4, depth) for depth in range(1, 5)},
        "ladder": {LADDER.subset(depth) for depth in range(1, 5)},
        "chosen": {full, *(SelectorDepth(4, depth) for depth in range(1, 4))},
    }
    for rule, subsets in expected.items():
        assert {subset for (subset,) in of_rule(rule)} == subsets
        assert {smallest for smallest, _, _ in of_rule(rule, "sandwich")} == {s for s in subsets if s.depth == 1}
        assert {last for *_, last in of_rule(rule, "sandwich")} == {full}
        policy = POLICIES.parse({"name": "uniform_count", "subsets": rule})
        recipe = recipe_with(tmp_path).model_copy(update={"policy": policy})
        assert {evaluated_subset(recipe, 4, depth, LADDER) for depth in range(1, 5)} == subsets
    assert len({subset for (subset,) in of_rule("random")}) == 15


@pytest.mark.parametrize(
    ("changes", "choose"),
    [
        (["policy.name=uniform_count"], BlockSubset.even),
        (["policy.name=bernoulli", "policy.keep_prob=0.5"], BlockSubset.even),
        (["policy.name=prefix"], BlockSubset.prefix),
        (["policy.name=none"], BlockSubset.even),
        (["policy.name=none", "objective.exits.at=all"], BlockSubset.prefix),
        (["policy.name=uniform_count", "objective.exits.at=all"], BlockSubset.even),
    ],
)
def test_what_is_measured_without_a_rule_is_even_but_prefixes_where_prefixes_were_trained(
    changes: list[str], choose: Callable[[int, int], BlockSubset], tmp_path: Path
) -> None:
    assert evaluated_subset(recipe_with(tmp_path, *changes), N, 3) == choose(N, 3)
