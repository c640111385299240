from __future__ import annotations

import random
from itertools import pairwise

import pytest

from layerdial import BlockSubset, UserError
from layerdial.subset import check_depth

EVERY_SIZE = [(n, depth) for n in (1, 2, 5, 12) for depth in range(1, n + 1)]


@pytest.mark.parametrize("rule", ["prefix", "even", "random"])
@pytest.mark.parametrize(("n_blocks", "depth"), EVERY_SIZE)
def test_every_rule_keeps_as_many_blocks_as_asked(rule: str, n_blocks: int, depth: int) -> None:
    more = (7,) if rule == "random" else ()
    subset = getattr(BlockSubset, rule)(n_blocks, depth, *more)
    assert (subset.n_blocks, subset.depth, len(set(subset.kept))) == (n_blocks, depth, depth)
    if depth == n_blocks:
        assert subset == BlockSubset.full(n_blocks)


@pytest.mark.parametrize(("n_blocks", "depth"), EVERY_SIZE)
def test_a_key_names_its_subset(n_blocks: int, depth: int) -> None:
    subset = BlockSubset.random(n_blocks, depth, seed=3)
    assert len(subset.key) == n_blocks
    assert BlockSubset.from_key(subset.key) == subset
    assert [i for i in range(n_blocks) if i in subset] == list(subset.kept)


def test_rules_choose_what_they_say() -> None:
    assert BlockSubset.prefix(12, 6).key == "111111000000"
    assert BlockSubset.even(12, 2).key == "100000000001"
    assert BlockSubset.even(12, 1).key == "100000000000"
    assert BlockSubset.even(5, 3).key == "10101"
    assert BlockSubset.full(3).without(1).key == "101"


def test_even_spacing_differs_by_one_at_most() -> None:
    for n_blocks, depth in EVERY_SIZE:
        kept = BlockSubset.even(n_blocks, depth).kept
        gaps = {b - a for a, b in pairwise(kept)}
        assert not gaps or max(gaps) - min(gaps) <= 1


def test_random_subsets_depend_on_their_arguments_alone() -> None:
    random.seed(1)
    first = [BlockSubset.random(12, 6, seed) for seed in range(20)]
    random.seed(2)
    assert [BlockSubset.random(12, 6, seed) for seed in range(20)] == first
    assert len(set(first)) > 10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlockSubset(4, ()), "keeps none"),
        (lambda: BlockSubset.full(0), "keeps none"),
        (lambda: BlockSubset(4, (1, 0)), "ascending"),
        (lambda: BlockSubset(4, (1, 1)), "unique"),
        (lambda: BlockSubset(4, (3, 4)), r"within 0\.\.3"),
        (lambda: BlockSubset(4, (-1, 2)), r"within 0\.\.3"),
        (lambda: BlockSubset(4, (2,)).without(2), "keeps none"),
        (lambda: BlockSubset.from_key("102"), "found '102'"),
        (lambda: BlockSubset.from_key(""), "found ''"),
        (lambda: BlockSubset.prefix(12, 0), "depth 0 .* choose 1 to 12"),
        (lambda: check_depth(13, 12), "depth 13 .* choose 1 to 12"),
    ],
)
def test_an_impossible_subset_says_what_is_possible(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
